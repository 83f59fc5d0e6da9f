"""The CUDA kernels beside the best of what else is installed."""

"""TensorRT: engines are built and run."""

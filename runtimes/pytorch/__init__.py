"""The PyTorch original, in its own dtype and in float64."""

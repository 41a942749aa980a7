"""Parameter space: merge methods as pure kernels, masks, and building tensors from expressions."""

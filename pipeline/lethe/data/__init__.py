"""Values made coarse, and rows made tensors."""

"""A run whose stages are pods: git's remote and DVC's are all that is between them."""

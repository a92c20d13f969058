"""The source: read for training, and forgetting whoever is erased or past retention."""

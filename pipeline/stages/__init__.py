"""The road's stages, one file each; they never import each other."""

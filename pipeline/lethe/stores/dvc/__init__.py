"""What was made from what, and where its bytes are: DVC's files, cache and remotes."""

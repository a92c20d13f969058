"""What is declared: `params.yaml`, keys, and where a workspace keeps its files."""

"""What `import lethe` gives to a notebook or a program; its names are in `lethe.__all__`."""

"""What a person can ask for: that they are erased, or left out, everywhere."""

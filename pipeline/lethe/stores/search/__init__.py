"""Finding people in bytes, texts and what a database has freed."""

"""The documentation: pages to read, and the reference that is made from the code."""

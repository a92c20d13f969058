"""Was this run what its plan says? Looks at what the run itself recorded, not at a replay."""

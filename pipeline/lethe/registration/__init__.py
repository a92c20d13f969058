"""The gate, the approval, a model's facts, and what is served."""

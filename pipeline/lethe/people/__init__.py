"""Who may be used, and where they are."""

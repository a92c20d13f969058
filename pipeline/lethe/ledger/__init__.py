"""What each person has spent, and the only way to spend more; it knows no person."""

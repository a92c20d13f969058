"""What each person has spent, and the one door to spending more; it knows no person."""

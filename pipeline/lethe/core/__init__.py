"""What everything stands on: errors, files, locks, values, and databases of Lethe's own."""

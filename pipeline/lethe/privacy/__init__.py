"""The price of anything: events, accountants, mechanisms."""

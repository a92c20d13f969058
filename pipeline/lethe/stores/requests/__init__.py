"""People's requests, step by step, and the receipts of what became of them."""

"""Who a token is: the one place that knows, encrypted, and able to forget."""

"""Noise and sampling as they are drawn, never seeded in production."""

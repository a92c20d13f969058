"""Attacks that the audit runs against a model's privacy claim."""

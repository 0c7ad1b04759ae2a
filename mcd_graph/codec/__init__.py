"""Weights and their compressed form, one at a time and many at a time."""

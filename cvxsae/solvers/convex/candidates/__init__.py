"""Algorithms for a fixed set of candidate atoms."""

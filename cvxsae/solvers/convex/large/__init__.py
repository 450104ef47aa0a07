"""Algorithms for the large dictionary: its relaxation, its dual and its dictionaries."""

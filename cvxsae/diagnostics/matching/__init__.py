"""Comparing two dictionaries: which atoms they share, and whether they are the same optimum."""

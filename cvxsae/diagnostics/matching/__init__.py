"""Two dictionaries: which atoms they share, and whether they are one optimum."""

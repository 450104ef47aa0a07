"""The large dictionary for a distribution: how many atoms are worth having, and a lower bound on every cost."""

"""The large dictionary for a distribution: how many atoms are worth having, and what any dictionary costs at least."""

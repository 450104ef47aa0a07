"""The stages of the search: stochastic steps, exact passes, polishing."""

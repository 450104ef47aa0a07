"""Global optima of small joint problems, by branch and bound over dictionaries (theory.md T18)."""

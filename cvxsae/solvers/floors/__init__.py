"""The search for floors of a width."""

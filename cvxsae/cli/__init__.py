"""The `cvxsae` command."""

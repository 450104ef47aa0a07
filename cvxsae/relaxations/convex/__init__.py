"""The four convex problems, their atom penalty and its polar."""

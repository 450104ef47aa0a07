"""The convex problems through one loop, and the conic reference."""

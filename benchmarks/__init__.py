"""Benchmarks: this package against its peers, in one run, printing ratios."""

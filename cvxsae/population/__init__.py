"""Statements about the distribution that rows are drawn from, not only about the rows (theory.md T17)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

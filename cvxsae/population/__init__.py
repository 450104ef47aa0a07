"""What holds for the distribution that rows are drawn from, not for the rows alone (theory.md §10, T17)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

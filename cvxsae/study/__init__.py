"""Scale studies: a declared grid of certified cells, and what it says."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

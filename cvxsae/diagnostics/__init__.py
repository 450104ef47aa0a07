"""The conditions of any optimum, measured on a dictionary and its exact codes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

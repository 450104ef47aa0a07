"""Convex optimization for sparse autoencoders: every answer carries a certificate."""

import lazy_loader

from ._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Sparse autoencoders: reading, training, metrics, and audits, which split their loss into parts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""WHAT: each problem as mathematics. Frozen problems with values, duals, closed forms and cvxpy formulations."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

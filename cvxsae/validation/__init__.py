"""IS IT TRUE: the referee and the cross-check."""

from cvxsae.validation.certificate import Certificate, certify
from cvxsae.validation.crosscheck import CrossCheck, crosscheck

__all__ = ["Certificate", "CrossCheck", "certify", "crosscheck"]

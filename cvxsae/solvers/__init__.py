"""HOW: algorithms that turn a problem into a :class:`Solution`, all through one loop and one evaluation."""

from cvxsae.solvers.solution import CertificateError, NotCertifiedError, Record, Solution, Status
from cvxsae.solvers.solve import SOLVERS, solve

__all__ = ["SOLVERS", "CertificateError", "NotCertifiedError", "Record", "Solution", "Status", "solve"]

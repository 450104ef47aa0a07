"""Convex optimisation for sparse autoencoders: every answer carries a certificate."""

from cvxsae.data import Activations, InputError
from cvxsae.relaxations import (
    AtomPenalty,
    Candidate,
    CandidateDictionary,
    LargeDictionary,
    SparseCodes,
    WideLimit,
    datapoint_atoms,
)
from cvxsae.solvers import CertificateError, NotCertifiedError, Record, Solution, Status, solve
from cvxsae.validation import Certificate, CrossCheck, certify, crosscheck

__version__ = "0.1.0"

__all__ = [
    "Activations",
    "AtomPenalty",
    "Candidate",
    "CandidateDictionary",
    "Certificate",
    "CertificateError",
    "CrossCheck",
    "InputError",
    "LargeDictionary",
    "NotCertifiedError",
    "Record",
    "Solution",
    "SparseCodes",
    "Status",
    "WideLimit",
    "certify",
    "crosscheck",
    "datapoint_atoms",
    "solve",
]

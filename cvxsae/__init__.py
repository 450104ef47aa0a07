"""Convex optimisation for sparse autoencoders: every answer carries a certificate."""

from cvxsae.data import Activations, InputError
from cvxsae.relaxations import (
    AtomPenalty,
    Candidate,
    CandidateDictionary,
    Floor,
    LargeDictionary,
    SparseCodes,
    WideLimit,
    datapoint_atoms,
    spectral_floor,
)
from cvxsae.solvers import (
    CertificateError,
    Codes,
    NotCertifiedError,
    Record,
    Solution,
    SparseAutoencoder,
    Status,
    atom_cost_path,
    code_path,
    encode,
    lambda_for_l0,
    lambda_max,
    solve,
    train_sae,
)
from cvxsae.validation import Certificate, CrossCheck, certify, crosscheck

__version__ = "0.1.0"

__all__ = [
    "Activations",
    "AtomPenalty",
    "Candidate",
    "CandidateDictionary",
    "Certificate",
    "CertificateError",
    "Codes",
    "CrossCheck",
    "Floor",
    "InputError",
    "LargeDictionary",
    "NotCertifiedError",
    "Record",
    "Solution",
    "SparseAutoencoder",
    "SparseCodes",
    "Status",
    "WideLimit",
    "atom_cost_path",
    "certify",
    "code_path",
    "crosscheck",
    "datapoint_atoms",
    "encode",
    "lambda_for_l0",
    "lambda_max",
    "solve",
    "spectral_floor",
    "train_sae",
]

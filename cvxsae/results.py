"""The results of all public functions, for annotations and for ``load``; each is a class with a report."""

from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.floors.floor import Floor
from cvxsae.relaxations.proofs import NonnegativeProof, SliceProof
from cvxsae.relaxations.solution import Record
from cvxsae.solvers.codes.result import Codes
from cvxsae.solvers.dictionary.result import DictionaryFit
from cvxsae.validation.certificate import Certificate, Violation

__all__ = [
    "Candidate",
    "Certificate",
    "Codes",
    "DictionaryFit",
    "Floor",
    "NonnegativeProof",
    "Record",
    "SliceProof",
    "Violation",
]

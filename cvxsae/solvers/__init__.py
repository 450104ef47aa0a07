"""HOW: algorithms that turn a problem into a :class:`Solution`, all through one loop and one evaluation."""

from cvxsae.solvers.code_paths import code_path, lambda_for_l0, lambda_max
from cvxsae.solvers.codes import Codes
from cvxsae.solvers.distributed import GroupError, ProcessGroup, process_group
from cvxsae.solvers.encode import encode
from cvxsae.solvers.learning import DictionaryFit, grow, learn_dictionary, penalty_path, shrink
from cvxsae.solvers.path import atom_cost_path
from cvxsae.solvers.sae import SparseAutoencoder
from cvxsae.solvers.solution import CertificateError, NotCertifiedError, Record, Solution, Status
from cvxsae.solvers.solve import SOLVERS, solve
from cvxsae.solvers.train_sae import train_sae
from cvxsae.solvers.width_floor import width_floor, width_floors

__all__ = [
    "SOLVERS",
    "CertificateError",
    "Codes",
    "DictionaryFit",
    "GroupError",
    "NotCertifiedError",
    "ProcessGroup",
    "Record",
    "Solution",
    "SparseAutoencoder",
    "Status",
    "atom_cost_path",
    "code_path",
    "encode",
    "grow",
    "lambda_for_l0",
    "lambda_max",
    "learn_dictionary",
    "penalty_path",
    "process_group",
    "shrink",
    "solve",
    "train_sae",
    "width_floor",
    "width_floors",
]

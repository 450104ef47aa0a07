from .codes.k_sparse import KSparseCodes as KSparseCodes
from .codes.k_sparse import k_sparse_codes as k_sparse_codes
from .convex.solve import SOLVERS as SOLVERS

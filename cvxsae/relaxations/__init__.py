"""WHAT: each convex problem as mathematics. Frozen problems with values, duals, closed forms and cvxpy formulations."""

from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.cone import ConeCondition, cone_condition
from cvxsae.relaxations.fixed_atoms import CandidateDictionary, SparseCodes, datapoint_atoms
from cvxsae.relaxations.floors import Floor, spectral_floor
from cvxsae.relaxations.joint import JointProblem
from cvxsae.relaxations.large_dictionary import LargeDictionary
from cvxsae.relaxations.penalty import AtomPenalty, PolarBounds
from cvxsae.relaxations.problem import Problem
from cvxsae.relaxations.refinement import best_new_atoms, refinement_gain, split_scores
from cvxsae.relaxations.wide_limit import WideLimit

__all__ = [
    "AtomPenalty",
    "Candidate",
    "CandidateDictionary",
    "ConeCondition",
    "Floor",
    "JointProblem",
    "LargeDictionary",
    "PolarBounds",
    "Problem",
    "SparseCodes",
    "WideLimit",
    "best_new_atoms",
    "cone_condition",
    "datapoint_atoms",
    "refinement_gain",
    "spectral_floor",
    "split_scores",
]

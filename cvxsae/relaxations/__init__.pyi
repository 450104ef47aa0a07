from .convex.fixed_atoms import datapoint_atoms as datapoint_atoms
from .convex.penalties.row_penalty import RowPenalty as RowPenalty
from .convex.penalty import AtomPenalty as AtomPenalty
from .convex.penalty import PolarBounds as PolarBounds
from .joint.cone import ConeCondition as ConeCondition
from .joint.cone import cone_condition as cone_condition
from .problem import Problem as Problem

"""IS IT TRUE: the referee and the cross-check."""

from cvxsae.validation.certificate import Certificate, certify
from cvxsae.validation.comparison import Comparison, WidthResult, compare
from cvxsae.validation.crosscheck import CrossCheck, crosscheck
from cvxsae.validation.floor_check import check_floor
from cvxsae.validation.ledger import LossLedger, audit
from cvxsae.validation.optimality import OptimalityReport, check_optimality
from cvxsae.validation.phenomena import (
    ResidualStructure,
    absorption,
    absorption_gap,
    antipodal_gain,
    antipodal_pairs,
    duplicates,
    feature_densities,
    residual_structure,
)
from cvxsae.validation.second_order import SecondOrder, second_order
from cvxsae.validation.statistics import FeatureStatistics, feature_statistics
from cvxsae.validation.study import ScaleStudy

__all__ = [
    "Certificate",
    "Comparison",
    "CrossCheck",
    "FeatureStatistics",
    "LossLedger",
    "OptimalityReport",
    "ResidualStructure",
    "ScaleStudy",
    "SecondOrder",
    "WidthResult",
    "absorption",
    "absorption_gap",
    "antipodal_gain",
    "antipodal_pairs",
    "audit",
    "certify",
    "check_floor",
    "check_optimality",
    "compare",
    "crosscheck",
    "duplicates",
    "feature_densities",
    "feature_statistics",
    "residual_structure",
    "second_order",
]

from .check import (
    Conditions as Conditions,
)
from .matching.result import (
    Matching as Matching,
)
from .pairs import (
    PairScan as PairScan,
)
from .pairs import (
    identity_score as identity_score,
)
from .pairs import (
    scan_pairs as scan_pairs,
)
from .phenomena import (
    ResidualStructure as ResidualStructure,
)
from .phenomena import (
    absorption as absorption,
)
from .phenomena import (
    absorption_gap as absorption_gap,
)
from .phenomena import (
    antipodal_gain as antipodal_gain,
)
from .phenomena import (
    antipodal_pairs as antipodal_pairs,
)
from .phenomena import (
    duplicates as duplicates,
)
from .phenomena import (
    feature_densities as feature_densities,
)
from .phenomena import (
    residual_structure as residual_structure,
)
from .refinement import (
    best_new_atoms as best_new_atoms,
)
from .refinement import (
    refinement_gain as refinement_gain,
)
from .refinement import (
    split_atom as split_atom,
)
from .refinement import (
    split_scores as split_scores,
)
from .report import (
    OptimalityReport as OptimalityReport,
)
from .second_order import (
    SecondOrder as SecondOrder,
)
from .second_order import (
    second_order as second_order,
)
from .sums import (
    FeatureStatistics as FeatureStatistics,
)
from .sums import (
    feature_statistics as feature_statistics,
)

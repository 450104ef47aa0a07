from .check import (
    OptimalityReport as OptimalityReport,
)
from .check import (
    check_optimality as check_optimality,
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

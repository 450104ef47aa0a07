from .activations import (
    ActivationsLike as ActivationsLike,
)
from .arguments import (
    BiasLike as BiasLike,
)
from .embedded import (
    EMBEDDED_NAMES as EMBEDDED_NAMES,
)
from .embedded import (
    digits as digits,
)
from .embedded import (
    embedded as embedded,
)
from .embedded import (
    wordllama as wordllama,
)
from .embedded import (
    wordllama_tokens as wordllama_tokens,
)
from .files import (
    gather_batches as gather_batches,
)
from .files import (
    read_array as read_array,
)
from .files import (
    read_arrays as read_arrays,
)
from .files import (
    write_arrays as write_arrays,
)
from .hierarchies import (
    FOUR_FEATURES as FOUR_FEATURES,
)
from .hierarchies import (
    TWENTY_FEATURES as TWENTY_FEATURES,
)
from .hierarchies import (
    Feature as Feature,
)
from .hierarchies import (
    hierarchy as hierarchy,
)
from .outliers import (
    Outliers as Outliers,
)
from .outliers import (
    find_outliers as find_outliers,
)
from .outliers import (
    outlier_note as outlier_note,
)
from .outliers import (
    without_outliers as without_outliers,
)
from .sources import (
    RowBatches as RowBatches,
)
from .sources import (
    row_batches as row_batches,
)
from .synthetic import (
    Synthetic as Synthetic,
)
from .synthetic import (
    circle_feature as circle_feature,
)
from .synthetic import (
    clustered as clustered,
)
from .synthetic import (
    dense_signed_feature as dense_signed_feature,
)
from .synthetic import (
    duplicated_rows as duplicated_rows,
)
from .synthetic import (
    sparse_features as sparse_features,
)
from .transforms import (
    Affine as Affine,
)
from .transforms import (
    center as center,
)
from .transforms import (
    center_and_scale as center_and_scale,
)
from .transforms import (
    scale_to_unit_mean_square as scale_to_unit_mean_square,
)

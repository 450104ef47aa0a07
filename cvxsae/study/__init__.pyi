from .compare import (
    Comparison as Comparison,
)
from .compare import (
    WidthResult as WidthResult,
)
from .compare import (
    compare as compare,
)
from .spec import (
    ScaleStudy as ScaleStudy,
)

from .compare import (
    Comparison as Comparison,
)
from .compare import (
    WidthResult as WidthResult,
)

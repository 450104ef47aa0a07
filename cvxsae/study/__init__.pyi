from .comparison import (
    Comparison as Comparison,
)
from .comparison import (
    WidthResult as WidthResult,
)

from .comparison import (
    Comparison as Comparison,
)
from .comparison import (
    HeldOutWidth as HeldOutWidth,
)
from .comparison import (
    WidthResult as WidthResult,
)

from .certificate import (
    Violation as Violation,
)
from .crosscheck import (
    CrossCheck as CrossCheck,
)
from .crosscheck import (
    crosscheck as crosscheck,
)

from .certificate import (
    Certificate as Certificate,
)
from .certificate import (
    Violation as Violation,
)
from .certify import (
    certify as certify,
)
from .crosscheck import (
    CrossCheck as CrossCheck,
)
from .crosscheck import (
    crosscheck as crosscheck,
)

from .certify import (
    Certificate as Certificate,
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
from .floors import (
    check_floor as check_floor,
)

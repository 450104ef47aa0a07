from .group import (
    GroupError as GroupError,
)
from .group import (
    ProcessGroup as ProcessGroup,
)
from .group import (
    process_group as process_group,
)

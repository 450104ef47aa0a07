from .group import ProcessGroup as ProcessGroup

from .codes.encode import (
    encode as encode,
)
from .codes.paths import (
    code_path as code_path,
)
from .codes.paths import (
    lambda_for_l0 as lambda_for_l0,
)
from .codes.paths import (
    lambda_max as lambda_max,
)
from .codes.result import (
    Codes as Codes,
)
from .convex.large.path import (
    atom_cost_path as atom_cost_path,
)
from .convex.solve import (
    SOLVERS as SOLVERS,
)
from .convex.solve import (
    solve as solve,
)
from .dictionary.learn import (
    grow as grow,
)
from .dictionary.learn import (
    learn_dictionary as learn_dictionary,
)
from .dictionary.result import (
    DictionaryFit as DictionaryFit,
)
from .dictionary.shrink import (
    penalty_path as penalty_path,
)
from .dictionary.shrink import (
    shrink as shrink,
)
from .floors.search import (
    width_floor as width_floor,
)

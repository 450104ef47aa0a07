from .candidate import (
    Candidate as Candidate,
)
from .convex.fixed_atoms import (
    CandidateDictionary as CandidateDictionary,
)
from .convex.fixed_atoms import (
    SparseCodes as SparseCodes,
)
from .convex.fixed_atoms import (
    datapoint_atoms as datapoint_atoms,
)
from .convex.large_dictionary import (
    LargeDictionary as LargeDictionary,
)
from .convex.penalty import (
    AtomPenalty as AtomPenalty,
)
from .convex.penalty import (
    PolarBounds as PolarBounds,
)
from .convex.wide_limit import (
    WideLimit as WideLimit,
)
from .floors.floor import (
    Floor as Floor,
)
from .floors.spectral import (
    spectral_floor as spectral_floor,
)
from .joint.cone import (
    ConeCondition as ConeCondition,
)
from .joint.cone import (
    cone_condition as cone_condition,
)
from .joint.joint import (
    JointProblem as JointProblem,
)
from .joint.refinement import (
    best_new_atoms as best_new_atoms,
)
from .joint.refinement import (
    refinement_gain as refinement_gain,
)
from .joint.refinement import (
    split_scores as split_scores,
)
from .problem import (
    Problem as Problem,
)
from .solution import (
    CertificateError as CertificateError,
)
from .solution import (
    NotCertifiedError as NotCertifiedError,
)
from .solution import (
    Record as Record,
)
from .solution import (
    Solution as Solution,
)
from .solution import (
    Status as Status,
)

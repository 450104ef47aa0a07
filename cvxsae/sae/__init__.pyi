from .architecture import (
    Gated as Gated,
)
from .architecture import (
    JumpReLU as JumpReLU,
)
from .architecture import (
    ReLU as ReLU,
)
from .architecture import (
    TanhReLU as TanhReLU,
)
from .architecture import (
    TopK as TopK,
)
from .audits.answer import (
    Audit as Audit,
)
from .audits.ledger import (
    LossLedger as LossLedger,
)
from .chosen_lambda import (
    ChosenLambda as ChosenLambda,
)
from .chosen_lambda import (
    lambda_matching_l0 as lambda_matching_l0,
)
from .example import (
    Example as Example,
)
from .example import (
    write_example as write_example,
)
from .formats.penalty import (
    Penalty as Penalty,
)
from .formats.penalty import (
    lambda_from as lambda_from,
)
from .frontiers.curves import (
    Frontier as Frontier,
)
from .frontiers.curves import (
    FrontierPoint as FrontierPoint,
)
from .frontiers.frontier import (
    frontier as frontier,
)
from .measures.metrics import (
    metrics as metrics,
)
from .measures.result import (
    Estimate as Estimate,
)
from .measures.result import (
    KindMetrics as KindMetrics,
)
from .measures.result import (
    Metrics as Metrics,
)
from .normalization import (
    LayerNorm as LayerNorm,
)
from .normalization import (
    TokenNorm as TokenNorm,
)
from .normalization import (
    Whitening as Whitening,
)
from .record import (
    TrainingRecord as TrainingRecord,
)
from .self_test import (
    SelfTest as SelfTest,
)
from .train import (
    train_sae as train_sae,
)

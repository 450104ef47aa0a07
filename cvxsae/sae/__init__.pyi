from .answer import (
    Audit as Audit,
)
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
from .chosen_lambda import (
    ChosenLambda as ChosenLambda,
)
from .chosen_lambda import (
    lambda_matching_l0 as lambda_matching_l0,
)
from .estimates import (
    Estimate as Estimate,
)
from .field_metrics import (
    metrics as metrics,
)
from .formats.penalty import (
    Penalty as Penalty,
)
from .formats.penalty import (
    lambda_from as lambda_from,
)
from .frontier_curves import (
    Frontier as Frontier,
)
from .frontier_curves import (
    FrontierPoint as FrontierPoint,
)
from .ledger import (
    LossLedger as LossLedger,
)
from .measured import (
    KindMetrics as KindMetrics,
)
from .measured import (
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
from .sparsity_frontier import (
    frontier as frontier,
)
from .train import (
    train_sae as train_sae,
)

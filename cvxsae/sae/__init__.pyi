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
from .autoencoder import (
    TrainingRecord as TrainingRecord,
)
from .formats.penalty import (
    Penalty as Penalty,
)
from .formats.penalty import (
    lambda_from as lambda_from,
)
from .ledger import (
    LossLedger as LossLedger,
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
from .train import (
    train_sae as train_sae,
)

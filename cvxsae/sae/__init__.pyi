from .audit import (
    audit as audit,
)
from .autoencoder import (
    SparseAutoencoder as SparseAutoencoder,
)
from .autoencoder import (
    TrainingRecord as TrainingRecord,
)
from .ledger import (
    LossLedger as LossLedger,
)
from .train import (
    train_sae as train_sae,
)

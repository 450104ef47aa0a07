from .autoencoder import (
    TrainingRecord as TrainingRecord,
)
from .ledger import (
    LossLedger as LossLedger,
)
from .train import (
    train_sae as train_sae,
)

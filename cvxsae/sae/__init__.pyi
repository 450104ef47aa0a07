from .autoencoder import (
    SparseAutoencoder as SparseAutoencoder,
)
from .ledger import (
    LossLedger as LossLedger,
)
from .ledger import (
    audit as audit,
)
from .train import (
    train_sae as train_sae,
)

from .data.activations import (
    Activations as Activations,
)
from .data.arguments import (
    InputError as InputError,
)
from .diagnostics.check import (
    check_optimality as check_optimality,
)
from .diagnostics.phenomena import (
    absorption_gap as absorption_gap,
)
from .diagnostics.phenomena import (
    antipodal_gain as antipodal_gain,
)
from .diagnostics.refinement import (
    best_new_atoms as best_new_atoms,
)
from .diagnostics.refinement import (
    refinement_gain as refinement_gain,
)
from .diagnostics.refinement import (
    split_scores as split_scores,
)
from .diagnostics.report import (
    OptimalityReport as OptimalityReport,
)
from .diagnostics.second_order import (
    SecondOrder as SecondOrder,
)
from .diagnostics.second_order import (
    second_order as second_order,
)
from .diagnostics.sums import (
    FeatureStatistics as FeatureStatistics,
)
from .diagnostics.sums import (
    feature_statistics as feature_statistics,
)
from .parallel.group import (
    GroupError as GroupError,
)
from .parallel.group import (
    ProcessGroup as ProcessGroup,
)
from .parallel.group import (
    process_group as process_group,
)
from .relaxations.candidate import (
    Candidate as Candidate,
)
from .relaxations.convex.fixed_atoms import (
    CandidateDictionary as CandidateDictionary,
)
from .relaxations.convex.fixed_atoms import (
    SparseCodes as SparseCodes,
)
from .relaxations.convex.fixed_atoms import (
    datapoint_atoms as datapoint_atoms,
)
from .relaxations.convex.large_dictionary import (
    LargeDictionary as LargeDictionary,
)
from .relaxations.convex.penalty import (
    AtomPenalty as AtomPenalty,
)
from .relaxations.convex.wide_limit import (
    WideLimit as WideLimit,
)
from .relaxations.floors.floor import (
    Floor as Floor,
)
from .relaxations.floors.spectral import (
    spectral_floor as spectral_floor,
)
from .relaxations.joint.cone import (
    ConeCondition as ConeCondition,
)
from .relaxations.joint.cone import (
    cone_condition as cone_condition,
)
from .relaxations.joint.joint import (
    JointProblem as JointProblem,
)
from .relaxations.solution import (
    CertificateError as CertificateError,
)
from .relaxations.solution import (
    NotCertifiedError as NotCertifiedError,
)
from .relaxations.solution import (
    Record as Record,
)
from .relaxations.solution import (
    Solution as Solution,
)
from .relaxations.solution import (
    Status as Status,
)
from .sae.audit import (
    audit as audit,
)
from .sae.autoencoder import (
    SparseAutoencoder as SparseAutoencoder,
)
from .sae.ledger import (
    LossLedger as LossLedger,
)
from .sae.train import (
    train_sae as train_sae,
)
from .solvers.codes.encode import (
    encode as encode,
)
from .solvers.codes.paths import (
    code_path as code_path,
)
from .solvers.codes.paths import (
    lambda_for_l0 as lambda_for_l0,
)
from .solvers.codes.paths import (
    lambda_max as lambda_max,
)
from .solvers.codes.result import (
    Codes as Codes,
)
from .solvers.convex.large.path import (
    atom_cost_path as atom_cost_path,
)
from .solvers.convex.solve import (
    solve as solve,
)
from .solvers.dictionary.learn import (
    grow as grow,
)
from .solvers.dictionary.learn import (
    learn_dictionary as learn_dictionary,
)
from .solvers.dictionary.result import (
    DictionaryFit as DictionaryFit,
)
from .solvers.dictionary.shrink import (
    penalty_path as penalty_path,
)
from .solvers.dictionary.shrink import (
    shrink as shrink,
)
from .solvers.floors.search import (
    width_floor as width_floor,
)
from .study.compare import (
    Comparison as Comparison,
)
from .study.compare import (
    WidthResult as WidthResult,
)
from .study.compare import (
    compare as compare,
)
from .study.spec import (
    ScaleStudy as ScaleStudy,
)
from .validation.certificate import (
    Certificate as Certificate,
)
from .validation.certify import (
    certify as certify,
)
from .validation.crosscheck import (
    CrossCheck as CrossCheck,
)
from .validation.crosscheck import (
    crosscheck as crosscheck,
)

__version__: str

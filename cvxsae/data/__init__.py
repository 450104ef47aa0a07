"""Activations in: what is accepted, checked, read from files, transformed, or made up with a known truth."""

from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.data.arguments import BiasLike, InputError
from cvxsae.data.embedded import EMBEDDED_NAMES, digits, embedded, wordllama, wordllama_tokens
from cvxsae.data.files import gather_batches, read_array, read_arrays, write_arrays
from cvxsae.data.synthetic import (
    FOUR_FEATURES,
    TWENTY_FEATURES,
    Feature,
    Synthetic,
    circle_feature,
    clustered,
    dense_signed_feature,
    duplicated_rows,
    hierarchy,
    sparse_features,
)
from cvxsae.data.transforms import Affine, center, center_and_scale, scale_to_unit_mean_square

__all__ = [
    "EMBEDDED_NAMES",
    "FOUR_FEATURES",
    "TWENTY_FEATURES",
    "Activations",
    "ActivationsLike",
    "Affine",
    "BiasLike",
    "Feature",
    "InputError",
    "Synthetic",
    "center",
    "center_and_scale",
    "circle_feature",
    "clustered",
    "dense_signed_feature",
    "digits",
    "duplicated_rows",
    "embedded",
    "gather_batches",
    "hierarchy",
    "read_array",
    "read_arrays",
    "scale_to_unit_mean_square",
    "sparse_features",
    "wordllama",
    "wordllama_tokens",
    "write_arrays",
]

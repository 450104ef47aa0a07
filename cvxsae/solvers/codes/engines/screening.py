"""Correlations computed in low precision, and a bound on their error that makes them safe to screen with.

For computed correlations ``c ≈ D r`` in units of λ, an atom is *provably* inactive (``d_k·r ≤ 1``) when ``c_k`` is
below a threshold; the handful of atoms above it are recomputed exactly. So the certificate is as exact as if
every correlation had been computed in float64, while the large matrix product runs in int8, bfloat16, tf32 or float32.

The bound, with hats for what was rounded on input and γ the accumulation error of a dot product of length d:

    |d_k·r − d̂_k·r̂|       ≤ ‖r − r̂‖ (1 + ε_D) + ‖r‖ ε_D,          ε_D = max_k ‖d_k − d̂_k‖
    |d̂_k·r̂ − accumulated| ≤ γ (1 + ε_D) ‖r̂‖,                     γ = (d + 8) 2⁻²³
    |accumulated − stored| ≤ u_out |accumulated|,                 u_out = 2⁻⁸ if stored as bfloat16

γ allows twice the unit roundoff of float32 at every addition, so it holds for any order of summation, with or
without fused multiply-add, and for accumulators that truncate.

In int8 a row is s·q, q whole numbers up to 127, with a scale s of its own and one for all atoms, so that the whole
numbers of a row compare as its correlations do. Sums of their products are exact below 2³¹, that is for
d ≤ 133,143; γ and u_out are then the few roundings in s·q and in the scale of the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int8

from cvxsae.errors import InputError
from cvxsae.parallel.threads import WORTH_SHARING, torch_threads
from cvxsae.solvers.codes.engines.prices import Prices
from cvxsae.solvers.codes.engines.products import float32_is_shortened

HALF_ROUNDING = 2.0**-8
"""Unit roundoff of bfloat16 (eight significant bits, to nearest)."""

FEWEST_PLACES, SPARE_PLACES = 128, 256
"""Places of a working set in few dimensions, and those for the atoms that enter at once (``Tuning.most``)."""

RIDGE_PLACES = 1024
"""Places of a working set in few dimensions with a ridge: what a row may use and still be solved in a second."""

SHORTENED = 2.01
"""Roundings to bfloat16 in a product whose two inputs were shortened (2), and their product (0.01)."""

LARGEST_TABLE, TABLE_SHARE = 4096, 400
"""Atoms at most for a table of their inner products, and its entries at most per datapoint that uses it."""

UNIT_ROUNDOFF = 1.2e-16
"""Unit roundoff of float64, 2⁻⁵³, rounded up."""

SPARE_ROUNDINGS = 8
"""Roundings of a residual beyond one for each active atom: x − b and x/λ once each, with room."""

SUM_ROUNDING = 5e-16
"""Relative rounding of a term z_k (1 − s d_k·r) of the gap: four operations."""

NORM_ROUNDING = 1e-12
"""Relative excess that makes a norm of at most thousands of float64 numbers an upper bound."""

FLOAT32_ROUNDOFF = 2.0**-23
"""Twice the unit roundoff of float32: holds for every order of summation, and for accumulators that truncate."""

CACHED_ENTRIES, DEVICE_ROWS = 2**17, 4096
"""Entries of a dictionary rounded at a time on a CPU, that they stay in its cache, and rows on another device."""

LARGEST_INT8 = 127
"""Largest whole number in an int8 product: −128 is left out, so that every number has its negative."""

WIDEST_INT8 = (2**31 - 1) // LARGEST_INT8**2
"""Largest dimension whose int8 products cannot overflow int32."""

FEW_ROUNDINGS = 8 * UNIT_ROUNDOFF
"""Covers the roundings of float64 in s·q of both inputs of an exact product of whole numbers."""

NEAREST_FLOAT32, LEAST_FLOAT32 = 1.0001 * 2.0**-24, 2.0**-126
"""Relative error of the nearest number in float32, with room for a few roundings of float64; and the size below which a
number may be flushed to zero instead."""

WHOLE_ROUNDING = 2.0**-22
"""Unit roundoff of such a product times its scale: three roundings of float32, where it is read as that."""

SHORTENED_TF32 = 2.01 * 2.0**-10
"""Relative error of a product whose two inputs were shortened to tf32 (eleven bits, truncated)."""

TINY = 1e-30
"""Covers results and inputs that a matrix unit flushes to zero."""


@dataclass(frozen=True)
class Precision:
    """How correlations were computed: what their rounding can do.

    Attributes
    ----------
    atom_error
        ε_D: the largest distance from an atom to its rounded copy.
    accumulation
        γ: relative error of a computed dot product, times the norms of its factors.
    output
        Unit roundoff of the stored result (0 when it is stored as accumulated).
    """

    atom_error: float
    accumulation: float
    output: float

    def margins(
        self, norm: Float[torch.Tensor, " n"], rounding: Float[torch.Tensor, " n"], reach: float = 1.0
    ) -> tuple[Float[torch.Tensor, " n"], Float[torch.Tensor, " n"]]:
        """Bound on the error before storing, and the threshold below which an atom is provably inactive.

        Parameters
        ----------
        norm
            ‖r‖ of each row, in units of λ.
        rounding
            ‖r − r̂‖ of each row.
        reach
            Largest norm of an atom. The margin is that of an atom of norm 1, and grows with the norm.
        """
        grown = 1.0 + self.atom_error
        margin = rounding * grown + norm * self.atom_error + self.accumulation * grown * (norm + rounding) + TINY
        return margin, (1.0 - margin * reach) / (1.0 + self.output)

    @property
    def least_share(self) -> float:
        """The accumulated value is at least this share of a positive stored one."""
        return 1.0 / (1.0 + self.output)


class PreparedDictionary:
    """A unit-norm dictionary in the precisions that the engines compute in.

    Parameters
    ----------
    rows
        Unit-norm atoms (K, d) in float64, trusted.
    device
        Where the large matrix products run.
    uses
        Number of datapoints that will be coded: with enough of them a table of all inner products is worth computing.
    prices
        Weights and ridge; None for the plain penalty. With them ``exact`` and ``working`` are the rows ν_k d_k, and
        what screens, ``single``, ``half`` and ``whole``, the atoms d_k/w_k.
    """

    def __init__(
        self,
        rows: Float[torch.Tensor, "K d"],
        device: torch.device | None = None,
        *,
        uses: int = 0,
        prices: Prices | None = None,
    ) -> None:
        self.uses = uses
        self.prices = prices
        self.device = torch.device("cpu") if device is None else device
        self.exact = rows.detach().to(device=self.device, dtype=torch.float64).contiguous()
        self.n_atoms, self.dim = self.exact.shape
        self.screened, self.reach, self.usual_reach = self.exact, 1.0, 1.0
        self.working = self.single = self.exact.to(torch.float32)
        if prices is not None:
            self.screened = self.exact * prices.reach[:, None]
            self.exact = self.exact * prices.lengths[:, None]
            self.working, self.single = self.exact.to(torch.float32), self.screened.to(torch.float32)
            self.reach, self.usual_reach = float(prices.reach.max()), float(prices.reach.median())

    @cached_property
    def products(self) -> Float[torch.Tensor, "K K"] | None:
        """Inner products of all atoms in float32, if a datapoint's share of their cost is below that of its own."""
        if self.n_atoms > LARGEST_TABLE or self.n_atoms**2 > TABLE_SHARE * self.uses:
            return None
        is_small = self.n_atoms**2 * self.dim < WORTH_SHARING
        with torch_threads(1 if is_small else torch.get_num_threads()):
            products = self.working @ self.working.T
        if self.prices is not None:
            products.fill_diagonal_(1.0)
        return products

    @property
    def priced(self) -> Prices:
        """The prices, where there are some."""
        assert self.prices is not None
        return self.prices

    @property
    def capacity(self) -> int:
        """Most atoms that a working set can hold: no optimal code needs more than d, the rest is room to search.

        With a ridge it may need more, as it pays to spread a code over atoms.
        """
        has_ridge = self.prices is not None and bool((self.prices.shares > 0).any())
        fewest = RIDGE_PLACES if has_ridge else FEWEST_PLACES
        return min(self.n_atoms, max(2 * self.dim, fewest) + SPARE_PLACES)

    @cached_property
    def half(self) -> Float[torch.Tensor, "K d"]:
        """The atoms rounded to bfloat16."""
        return self.single.to(torch.bfloat16)

    @cached_property
    def whole_scale(self) -> float:
        """The scale s of the atoms in int8: one for all."""
        largest = max(float(part.abs().max()) for part in torch.split(self.screened, self._step))
        return largest / LARGEST_INT8 if largest > TINY else 1.0

    @cached_property
    def whole(self) -> Int8[torch.Tensor, "K d"]:
        """The atoms in units of ``whole_scale``, rounded to whole numbers."""
        whole = torch.empty(self.screened.shape, dtype=torch.int8, device=self.device)
        for part, target in zip(*(torch.split(rows, self._step) for rows in (self.screened, whole)), strict=True):
            target.copy_((part / self.whole_scale).round_().clamp_(-LARGEST_INT8, LARGEST_INT8))
        return whole

    def rounded(self, precision: str) -> tuple[torch.Tensor, Precision]:
        """The atoms in one of ``PRECISIONS``, and what rounding can do to products with them."""
        if precision == "int8":
            return self.whole, self.whole_precision
        if precision == "bfloat16":
            return self.half, self.half_precision
        return self.single, self.tf32_precision if precision == "tf32" else self.single_precision

    @cached_property
    def single_precision(self) -> Precision:
        """Float32 products; if torch is allowed to shorten their inputs (tf32, bf16), the bound allows for that."""
        shortened = SHORTENED * HALF_ROUNDING if float32_is_shortened(self.device.type) else 0.0
        return Precision(self._nearest, (self.dim + SPARE_ROUNDINGS) * FLOAT32_ROUNDOFF + shortened, 0.0)

    @cached_property
    def half_precision(self) -> Precision:
        """Products of bfloat16 inputs, accumulated in float32 and stored as bfloat16."""
        return Precision(self._rounding(self.half), (self.dim + SPARE_ROUNDINGS) * FLOAT32_ROUNDOFF, HALF_ROUNDING)

    @cached_property
    def tf32_precision(self) -> Precision:
        """Float32 products whose inputs are shortened to tf32."""
        exact = self.single_precision
        return Precision(exact.atom_error, exact.accumulation + SHORTENED_TF32, 0.0)

    @cached_property
    def whole_precision(self) -> Precision:
        """Exact products of whole numbers; refuses dimensions in which they could overflow."""
        if self.dim > WIDEST_INT8:
            raise InputError(f"precision is 'int8', which takes up to {WIDEST_INT8} dimensions; these are {self.dim}.")
        return Precision(self._rounding(self.whole, self.whole_scale), FEW_ROUNDINGS, WHOLE_ROUNDING)

    @property
    def _step(self) -> int:
        """Atoms that are rounded at a time."""
        return max(1, CACHED_ENTRIES // self.dim) if self.device.type == "cpu" else DEVICE_ROWS

    @property
    def _nearest(self) -> float:
        """ε_D of float32, without a look at the atoms: every entry is the nearest one, or flushed as too small."""
        least = 1.0 if self.prices is None else float(self.prices.reach.min())
        return NEAREST_FLOAT32 + math.sqrt(self.dim) * LEAST_FLOAT32 / least

    def _rounding(self, copy: Float[torch.Tensor, "K d"] | Int8[torch.Tensor, "K d"], scale: float = 1.0) -> float:
        worst, step = 0.0, self._step
        for start in range(0, self.n_atoms, step):
            lost = self.screened[start : start + step] - copy[start : start + step].to(torch.float64) * scale
            lengths = torch.linalg.vector_norm(lost, dim=1)
            if self.prices is not None:  # relative to the norm 1/w of the atom, which has one rounding itself
                lengths = lengths / self.prices.reach[start : start + step] + 4 * UNIT_ROUNDOFF
            worst = max(worst, float(lengths.max()))
        return worst * (1 + NORM_ROUNDING)

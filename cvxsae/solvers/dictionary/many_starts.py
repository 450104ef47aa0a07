"""Many cheap starts for a dictionary of one atom or two: codes have a closed form there, so all starts run at once.

One start in eight or so of such small problems ends 20 to 30 % above the optimum. Alternating minimization from many
starts together costs less than one search, and the best of them is where the search begins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64

WIDEST = 2
"""Atoms up to which nonnegative codes have a closed form that is worth writing down."""


@dataclass(frozen=True)
class ManyStarts:
    """Alternating minimization of F from many starts at once.

    Attributes
    ----------
    count
        Starts besides the one that is given.
    iterations
        Of alternating minimization: enough to tell basins apart, and the search resumes from there.
    most_points
        Datapoints to look at, evenly spaced.
    parallel
        Atoms whose inner product is this close to 1 are not used together: each alone does as well.
    """

    count: int = 63
    iterations: int = 40
    most_points: int = 1024
    parallel: float = 1e-9

    def best(
        self,
        points: Float64[torch.Tensor, "n d"],
        given: Float64[torch.Tensor, "K d"],
        lam: float,
        rng: np.random.Generator,
        *,
        bias_is_free: bool,
    ) -> tuple[Float64[torch.Tensor, "K d"], Float64[torch.Tensor, " d"]]:
        """Atoms and offset that F is lowest at; the given atoms at offset zero unless others are better.

        ``points`` are data as seen from the origin. Other starts are directions of datapoints, seen from the origin or,
        if the bias is free, from another datapoint.
        """
        drawn = rng.integers(0, len(points), (self.count, len(given) + 1))
        centers = points[drawn[:, -1]] * torch.from_numpy(rng.random((self.count, 1)) < 1 / 2)
        centers = centers if bias_is_free else torch.zeros_like(centers)
        directions = points[drawn[:, :-1]] - centers[:, None]
        noise = torch.from_numpy(rng.standard_normal(directions.shape))
        directions = torch.where(torch.linalg.vector_norm(directions, dim=2, keepdim=True) > 0, directions, noise)
        atoms = torch.cat([given[None], torch.nn.functional.normalize(directions, dim=2, eps=0)])
        starts = Starts(points, lam, atoms, torch.cat([torch.zeros_like(points[:1]), centers]), self.parallel)
        for _ in range(self.iterations):
            starts = starts.improved(bias_is_free=bias_is_free)
        best = int(starts.values().argmin())
        return starts.atoms[best], starts.offsets[best]


@dataclass(frozen=True)
class Starts:
    """Dictionaries of one or two atoms with their offsets, for the same points."""

    points: Float64[torch.Tensor, "n d"]
    lam: float
    atoms: Float64[torch.Tensor, "m K d"]
    offsets: Float64[torch.Tensor, "m d"]
    parallel: float = ManyStarts.parallel

    def codes(self) -> Float64[torch.Tensor, "m n K"]:
        """Exact codes at every start: both atoms where both codes are positive, else the better of one alone."""
        atoms = self.atoms
        pull = self.points @ atoms.mT - (self.offsets[:, None] @ atoms.mT) - self.lam
        if atoms.shape[1] == 1:
            return pull.clamp(min=0)
        cosine = (atoms[:, 0] * atoms[:, 1]).sum(dim=1)[:, None, None]
        apart = 1 - cosine.square()
        both = (pull - cosine * pull.flip(2)) / apart.clamp(min=self.parallel)
        first = (pull[..., :1] >= pull[..., 1:]).to(pull.dtype)
        alone = pull.clamp(min=0) * torch.cat([first, 1 - first], dim=2)
        return torch.where((both > 0).all(dim=2, keepdim=True) & (apart > self.parallel), both, alone)

    def values(self) -> Float64[torch.Tensor, " m"]:
        """F of every start, mean over the points."""
        codes = self.codes()
        residuals = self.points - self.offsets[:, None] - codes @ self.atoms
        return (residuals.square().sum(dim=2) / 2 + self.lam * codes.sum(dim=2)).mean(dim=1)

    def improved(self, *, bias_is_free: bool) -> Starts:
        """Codes, then one atom after the other, then the offset."""
        points, codes = self.points, self.codes()
        products, crosses, mass = codes.mT @ codes, codes.mT @ points, codes.sum(dim=1)
        atoms, offsets = self.atoms.clone(), self.offsets
        for k in range(atoms.shape[1]):
            target = crosses[:, k] - mass[:, k, None] * offsets - (products[:, k, None] @ atoms)[:, 0]
            target = target + products[:, k, k, None] * atoms[:, k]
            length = torch.linalg.vector_norm(target, dim=1, keepdim=True)
            atoms[:, k] = torch.where(length > 0, target / length, atoms[:, k])
        if bias_is_free:
            offsets = (points.sum(dim=0) - (mass[:, None] @ atoms)[:, 0]) / len(points)
        return replace(self, atoms=atoms, offsets=offsets)

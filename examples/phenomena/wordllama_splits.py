"""(g) Do split scores predict which features split? Token embeddings of a language model, width K against width 2K.

    python examples/phenomena/wordllama_splits.py [--points 4000] [--width 64] [--seeds 1] [--grow] [--out folder]

Split scores (T8) are computed on a converged dictionary of K atoms. Then 2K atoms are learned *afresh*, from another
seed: a dictionary grown from the first (``--grow``) is circular, for growing places atoms by these scores. An atom at
width 2K is a child of the atom at width K it is closest to (largest cosine). The split that was realized is measured
three ways:

    children   number of children
    mass       mean activation S/N of all children but the heaviest: 0 for an atom that did not split
    gain       what the datapoints of the atom gained, mean_n z_nk (φ_K(x_n) − φ_2K(x_n)), in units of (P) times z

and compared, by Spearman's rank correlation over the live atoms, with the score and with simpler predictors: density,
mean activation, mean residual norm, mass times that (the score is at most this), and the score divided by the mass.
Where an atom has two children or more, the direction of the score is compared with the difference of the two heaviest
(both without their part along the atom): |cosine|, beside that with the directions of other atoms.

The result is reported, whatever it is; the claims are about what was computed: both dictionaries are stationary, and
splitting along the reported direction does lower F at the rate of the score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from reporting import COLORS, Claims, Results, parser, save
from scipy.stats import spearmanr

from cvxsae import check_optimality, encode, grow, learn_dictionary
from cvxsae.data import wordllama
from cvxsae.relaxations.joint.refinement import split_atom
from cvxsae.results import DictionaryFit

LAM = 0.08
STEP = 1e-3
REALIZED = ("children", "mass", "gain")


def sample(points: int, seed: int) -> np.ndarray:
    """Random token embeddings, centered, of mean norm 1."""
    rows = wordllama().astype(np.float64)
    chosen = np.random.default_rng(seed).choice(len(rows), points, replace=False)
    centered = rows[np.sort(chosen)]
    centered -= centered.mean(axis=0)
    return centered / np.linalg.norm(centered, axis=1).mean()


def predictors(X: np.ndarray, fit: DictionaryFit, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Split score and simpler guesses, one row an atom; and the split directions."""
    report = check_optimality(X, fit.dictionary, LAM, codes=fit.encoding, code_tol=1e-9, new_atoms=0, seed=seed)
    found = report.statistics
    codes = found.codes.codes
    mass = np.where(found.live, found.mass, np.nan)
    norm = (codes.T @ found.residual_norms) / (found.n_points * mass)
    scores = report.features["split_score"].to_numpy(dtype=np.float64)
    frame = {
        "split score": scores,
        "score / mass": scores / mass,
        "mean residual norm": norm,
        "mass × residual norm": mass * norm,
        "mean activation": mass,
        "density": np.where(found.live, found.density, np.nan),
    }
    return pd.DataFrame(frame), report.split_directions


def realized(narrow: DictionaryFit, wide: DictionaryFit) -> pd.DataFrame:
    """How each atom of the narrow dictionary split, as defined above."""
    K = narrow.n_atoms
    mass = np.asarray(wide.codes.sum(axis=0)).ravel() / wide.problem.n_points
    parents = (wide.dictionary @ narrow.dictionary.T).argmax(axis=1)
    parents, mass = parents[mass > 0], mass[mass > 0]
    heaviest = np.zeros(K)
    np.maximum.at(heaviest, parents, mass)
    fall = narrow.encoding.values - wide.encoding.values
    return pd.DataFrame(
        {
            "children": np.bincount(parents, minlength=K),
            "mass": np.bincount(parents, weights=mass, minlength=K) - heaviest,
            "gain": narrow.codes.T @ fall / len(fall),
        }
    )


def aligned(narrow: DictionaryFit, wide: DictionaryFit, directions: np.ndarray) -> tuple[int, float, float]:
    """Atoms with two children; mean |cosine| of their difference with the atom's own direction, and with others'."""
    mass = np.asarray(wide.codes.sum(axis=0)).ravel()
    parents = (wide.dictionary @ narrow.dictionary.T).argmax(axis=1)
    cosines = []
    for k, atom in enumerate(narrow.dictionary):
        children = np.flatnonzero((parents == k) & (mass > 0))
        if len(children) > 1:
            first, second = children[np.argsort(-mass[children])][:2]
            apart = wide.dictionary[first] - wide.dictionary[second]
            apart -= (apart @ atom) * atom
            along = np.abs(directions @ apart) / np.linalg.norm(apart)
            cosines.append((along[k], np.delete(along, k).mean()))
    own, others = np.mean(cosines, axis=0) if cosines else (np.nan, np.nan)
    return len(cosines), float(own), float(others)


def measured_rate(X: np.ndarray, fit: DictionaryFit, atom: int, direction: np.ndarray) -> float:
    """How fast F falls when the atom is replaced by ``normalize(d ± εv)``, with exact codes before and after."""
    split = split_atom(torch.from_numpy(fit.dictionary), atom, torch.from_numpy(direction), STEP)
    warm = fit.encoding
    before = encode(X, fit.dictionary, LAM, tol=1e-12, warm_start=warm).value
    return (before - encode(X, split, LAM, tol=1e-12).value) / STEP


def draw(found: pd.DataFrame, ranks: np.ndarray) -> Figure:
    """What was realized against the split scores, a panel for each way to measure it."""
    names = ("number of children", "mean activation of lesser children", "gain in F, weighted with codes")
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axis, column, name, rank in zip(figure.subplots(1, 3), REALIZED, names, ranks, strict=True):
        axis.plot(1e3 * found["split score"], found[column], ".", color=COLORS[0])
        axis.set(xlabel="split score (T8), ×10⁻³", ylabel=name, title=f"Spearman {rank:.2f}")
        if column == "children":
            axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--points", type=int, default=4000)
    options.add_argument("--width", type=int, default=64)
    options.add_argument("--seeds", type=int, default=1, help="independent pairs of dictionaries")
    options.add_argument("--tol", type=float, default=2e-3, help="stationarity of both dictionaries (T3)")
    options.add_argument("--grow", action="store_true", help="grow the wide dictionary from the narrow one instead")
    asked = options.parse_args(argv)
    claims, results = Claims(), Results()
    X = sample(asked.points, 0)
    tables, worst, turned, spreads = [], 0.0, [], []
    for seed in range(asked.seeds):
        narrow = learn_dictionary(X, asked.width, LAM, bias=None, seed=seed, stationarity=asked.tol)
        if asked.grow:
            wide = grow(narrow, 2 * asked.width)
        else:
            wide = learn_dictionary(X, 2 * asked.width, LAM, bias=None, seed=1000 + seed, stationarity=asked.tol)
        worst = max(worst, narrow.worst_stationarity, wide.worst_stationarity)
        print(f"seed {seed}: F {narrow.value:.5f} at {narrow.n_atoms} atoms, {wide.value:.5f} at {wide.n_atoms}")
        guesses, directions = predictors(X, narrow, seed)
        split, own, others = aligned(narrow, wide, directions)
        print(
            f"  {split} atoms have several children; |cos| of their difference with v_k {own:.2f}, others' {others:.2f}"
        )
        scores = guesses["split score"]
        spread = scores.std() / scores.mean()
        turned.append((own, others))
        spreads.append(spread)
        print(f"  split scores {scores.min():.5f} to {scores.max():.5f}, standard deviation/mean {spread:.2f}")
        if seed == 0:
            atom = int(guesses["split score"].argmax())
            rate, score = measured_rate(X, narrow, atom, directions[atom]), float(guesses["split score"][atom])
        tables.append(pd.concat([guesses, realized(narrow, wide)], axis=1).dropna())
    names = list(guesses.columns)
    ranks = np.array([[[spearmanr(t[n], t[r]).statistic for r in REALIZED] for n in names] for t in tables])
    print(f"\nSpearman with the realized split, mean over {asked.seeds} pair(s) of {asked.width} → {2 * asked.width}:")
    means = [[f"{one:.2f}".replace("-", "−") for one in row] for row in ranks.mean(axis=0)]
    results.table("ranks", ["predictor", *REALIZED], [[name, *row] for name, row in zip(names, means, strict=True)])
    chance = 1.96 / np.sqrt(len(tables[0]) - 1)
    own, others = np.mean(turned, axis=0)
    results.value("pairs", asked.seeds, "d")
    results.value("chance", chance, ".2f")
    results.value("along", own, ".2f")
    results.value("along_others", others, ".2f")
    results.value("spread", 100 * float(np.mean(spreads)), ".0f")
    results.value("stationarity", worst, ".0e")
    print(f"Of one pair, ±{chance:.2f} is what chance gives 95 % of the time.\n")
    claims.check(f"both dictionaries are stationary: worst residual {worst:.1e} ≤ {asked.tol:.0e}", worst <= asked.tol)
    agrees = abs(rate / score - 1) <= 0.02
    claims.check(f"splitting atom {atom} lowers F at rate {rate:.5g}, its score says {score:.5g}", agrees)

    save(draw(tables[0], ranks[0, 0]), asked.out, "wordllama_splits")
    results.save(asked.results, "wordllama_splits", "grown" if asked.grow else f"{asked.width}")
    return claims.exit_code


if __name__ == "__main__":
    raise SystemExit(main())

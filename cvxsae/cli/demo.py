"""The demo: shows the package and its certificates on the token embeddings of a language model."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from cvxsae.data.activations import Activations
from cvxsae.data.atomic import make_folder, write_atomically
from cvxsae.data.embedded import wordllama, wordllama_tokens
from cvxsae.data.transforms import center_and_scale
from cvxsae.relaxations.convex.fixed_atoms import CandidateDictionary, SparseCodes, datapoint_atoms
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.problem import Problem
from cvxsae.relaxations.solution import Solution, Status
from cvxsae.sae.styles import SAE, WIDE
from cvxsae.solvers.codes.encode import encode
from cvxsae.solvers.convex.solve import solve
from cvxsae.study.compare import compare
from cvxsae.study.comparison import Comparison, WidthResult
from cvxsae.validation.certify import certify
from cvxsae.validation.crosscheck import crosscheck

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from matplotlib.axes import Axes

RATIOS = (0.5, 0.3, 0.1, 0.03, 0.01, 0.003)
"""Penalties of the floor, as fractions of λ_max: from nearly no atoms to nearly one per token."""

WORDS = "dog dogs cat red blue green king queen Paris London run running seven eight".split()  # noqa: SIM905
"""Words for the part about sharing: a few close pairs and some without a close neighbor."""

LAM = 0.08
"""Penalty of all parts except the second: about ten active atoms per token in a dictionary of a few hundred."""

CODING_LAM = 0.13
"""Penalty of the random dictionary, whose atoms fit worse."""

CODING_ATOMS, CODING_TOKENS = 2048, 4000
"""Number of random tokens used as atoms, and of other tokens that are coded with them."""

SAMPLE = 24
"""Number of tokens in the cross-checks: as many as the interior-point solver finishes in a second."""

SHARING_COSTS = (0.9, 1.1)
"""Prices of an atom, as multiples of the price at which sharing begins."""

HIGHEST_COST = 5.0
"""The last price, at which several words share one atom."""

SHARED, PRIVATE = 1e-3, 1e-5
"""Cosines in Q above which words share an atom, and below which they do not: solver accuracy lies between."""

LEDGER_WIDTHS, LEDGER_TOKENS, LEDGER_STEPS, LEDGER_SECONDS = (32, 128), 3000, 800, 30.0
"""Widths of the trained SAEs, number of training tokens, training steps, and seconds for all of them."""

LEDGER_STATIONARITY = 1e-4
"""Target stationarity of the search for better dictionaries; its time runs out first."""

LOSS_LABEL = "loss, mean per token"
"""Name of the axes of both figures of a loss."""

THIN = 0.01
"""Parts of a bar below this share of it cannot be seen, so that their names and values are written above it."""

WIDE_TOL, CODES_TOL, LEDGER_TOL, SHARING_TOL = 1e-9, 1e-6, 1e-3, 1e-4
"""Target relative gaps of floors, of codes, of the codes in a ledger, and of large dictionaries."""


@dataclass(frozen=True)
class Demo:
    """The embeddings, centered and scaled, and the function that prints."""

    X: Activations
    tokens: tuple[str, ...]
    say: Callable[[str], None]
    progress: bool


def run_demo(folder: Path, *, say: Callable[[str], None] | None = print, progress: bool = False) -> dict[str, Any]:
    """Solve, certify and cross-check on real embeddings; write ``demo.png`` and ``demo.json`` into ``folder``.

    Parameters
    ----------
    folder
        Created if needed.
    say
        Called with each line of text; None for silence.
    progress
        Whether to show progress bars.

    Returns
    -------
    dict
        Every number printed, and ``certified``: whether the referee had no objection anywhere.

    Raises
    ------
    InputError
        If the ``wordllama`` wheel is missing or the folder cannot be made.
    """
    start = time.perf_counter()
    make_folder(folder, "--out")
    speak = say or (lambda _: None)
    raw = wordllama()
    transform = center_and_scale(raw)
    demo = Demo(transform.apply(raw), wordllama_tokens(), speak, progress)
    speak(f"cvxsae on the embeddings of {len(raw):,} language-model tokens in {raw.shape[1]} dimensions,")
    speak(f"centered and scaled to unit mean-square norm (scale {transform.scale:.4g}; λ scales with it).")
    report: dict[str, Any] = {"scale": transform.scale}
    report["wide"] = _wide_limit(demo)
    report["dictionary"] = _dictionary(demo)
    report["crosscheck"] = _cross_checks(demo)
    report["sharing"], similarities = _sharing(demo)
    report["ledger"], comparison = _ledger(demo)
    holds = bool(
        all(row["certified"] for row in report["wide"])
        and report["dictionary"]["certified"]
        and all(row["agrees"] for row in report["crosscheck"])
        and report["sharing"]["holds"]
    )
    report["certified"] = holds and report["ledger"]["certified"]
    _figure(folder / "demo.png", report, similarities, comparison)
    report["seconds"] = time.perf_counter() - start
    write_atomically(folder / "demo.json", json.dumps(report, indent=2, default=float), "--out")
    speak("")
    verdict = "Every number above was recomputed by the referee in float64 from the data and the arrays alone"
    said = "no objections" if holds else "SEE THE OBJECTIONS ABOVE"
    speak(f"{verdict}: {said}{'' if report['ledger']['certified'] else ', and part 5 was NOT finished in time'}.")
    speak(f"Figure and numbers: {folder / 'demo.png'}, {folder / 'demo.json'} ({report['seconds']:.0f} s).")
    return report


def _wide_limit(demo: Demo) -> list[dict[str, Any]]:
    """The floor under every dictionary, at several penalties."""
    say = demo.say
    say("")
    say("1. The floor. No dictionary of any width can bring the SAE loss below the wide limit (one atom per token).")
    say("   λ/λ_max    λ          floor      (share of F at zero codes)   tokens with an atom   gap      passes")
    unscaled = WideLimit(demo.X, 1.0)
    lambda_max = unscaled.lambda_max()
    ceiling = float(solve(replace(unscaled, lam=lambda_max)).value)
    rows = []
    for ratio in tqdm(RATIOS, desc="wide limit", disable=not demo.progress):
        problem = replace(unscaled, lam=ratio * lambda_max)
        solution = solve(problem, tol=WIDE_TOL)
        certificate = certify(problem, solution)
        used = float((solution.codes.sum(axis=1) > 0).mean()) if solution.codes is not None else float("nan")
        rows.append(
            {
                "lam_ratio": ratio,
                "lam": problem.lam,
                "value": certificate.value,
                "lower_bound": certificate.lower_bound,
                "gap": certificate.gap,
                "share_of_zero_codes": certificate.value / ceiling,
                "tokens_with_an_atom": used,
                "passes": solution.info["passes"],
                "certified": certificate.is_certified,
            }
        )
        say(
            f"   {ratio:<9g}  {problem.lam:<9.4g}  {certificate.value:<9.6f}  {certificate.value / ceiling:>8.1%}"
            f"{used:>33.1%}   {certificate.gap:>17.0e}   {solution.info['passes']:>4}"
        )
        for objection in certificate.objections:
            say(f"   objection: {objection}")
    return rows


def _dictionary(demo: Demo) -> dict[str, Any]:
    """How far a dictionary of random tokens is from the floor of every width."""
    say = demo.say
    shuffled = np.random.default_rng(1).permutation(len(demo.X))
    atoms, X = demo.X[shuffled[:CODING_ATOMS]].to_numpy(), demo.X[shuffled[CODING_ATOMS : CODING_ATOMS + CODING_TOKENS]]
    codes = encode(X, atoms, CODING_LAM, tol=CODES_TOL, progress=demo.progress)
    floor = solve(WideLimit(X, CODING_LAM), tol=WIDE_TOL)
    say("")
    say(
        f"2. A dictionary. {len(atoms):,} random tokens are the atoms; {len(X):,} other tokens get exact codes at "
        f"λ = {CODING_LAM}:"
    )
    say(
        f"   loss   {codes.value:.6f}   every token certified to {codes.gaps.max():.0e}, "
        f"{codes.l0:.1f} active atoms per token, {codes.passes_mean:.1f} passes over the dictionary"
    )
    say(f"   floor  {floor.lower_bound:.6f}   for these tokens, at any width and with any bias")
    say(f"   So no training can remove more than {1 - floor.lower_bound / codes.value:.0%} of this loss.")
    return {
        "lam": CODING_LAM,
        "lam_ratio": CODING_LAM / WideLimit(demo.X, CODING_LAM).lambda_max(),
        "n_atoms": len(atoms),
        "n_points": len(X),
        "value": codes.value,
        "lower_bound": codes.lower_bound,
        "largest_gap": float(codes.gaps.max()),
        "l0": codes.l0,
        "floor": floor.lower_bound,
        "certified": bool(codes.status is Status.CERTIFIED and certify(floor.problem, floor).is_certified),
    }


def _cross_checks(demo: Demo) -> list[dict[str, Any]]:
    """All four problems on a few tokens, solved by two unrelated methods."""
    say = demo.say
    say("")
    say(f"3. Two solvers, one number. Torch and an interior-point solver (cvxpy + Clarabel) solve {SAMPLE} tokens.")
    say("   problem                        torch          reference      difference   referee")
    chosen = np.sort(np.random.default_rng(0).choice(len(demo.X), size=4 * SAMPLE, replace=False))
    X, atoms = demo.X[chosen[:SAMPLE]], demo.X[chosen[SAMPLE:]].to_numpy()
    problems: list[tuple[str, Problem]] = [
        ("wide limit, free bias", WideLimit(X, LAM)),
        ("codes, 72 atoms", SparseCodes(X, atoms, LAM)),
        ("candidates, τ = 10", CandidateDictionary(X, datapoint_atoms(X), LAM, atom_cost=10.0, bias=None)),
        ("large dictionary, τ = 10", LargeDictionary(X, LAM, atom_cost=10.0, bias=None)),
    ]
    rows = []
    for label, problem in tqdm(problems, desc="cross-checks", disable=not demo.progress):
        check = crosscheck(problem)
        torch_value = check.certificates["torch"].value
        reference = torch_value / (1 + check.difference)
        rows.append({"problem": label, "torch": torch_value, "reference": reference, **check.to_dict()})
        say(
            f"   {label:<29}  {torch_value:<13.9f}  {reference:<13.9f}  {check.difference:>+9.0e}    "
            f"{'agrees' if check.agrees else 'OBJECTS'}"
        )
        for objection in check.objections:
            say(f"   {objection}")
    return rows


def _sharing(demo: Demo) -> tuple[dict[str, Any], dict[float, np.ndarray]]:
    """Every word has its own atom until atoms cost more than τ*; then the closest pair shares first (T12)."""
    say = demo.say
    index = {token: row for row, token in enumerate(demo.tokens)}
    X = demo.X[torch.tensor([index["▁" + word] for word in WORDS])]
    threshold = LargeDictionary(X, LAM, 0.0, bias=None).sharing_threshold()
    say("")
    say(f"4. Sharing. If an atom costs nothing, each of {len(WORDS)} words has its own. Theory says that sharing")
    say(f"   starts at the price τ* = 1/max cos − 1 = {threshold:.4f}, with the closest pair.")
    rows: list[dict[str, Any]] = []
    similarities: dict[float, np.ndarray] = {}
    costs = (0.0, *(share * threshold for share in SHARING_COSTS), HIGHEST_COST)
    for cost in tqdm(costs, desc="sharing", disable=not demo.progress):
        problem = LargeDictionary(X, LAM, atom_cost=cost, bias=None)
        reference = solve(problem, solver="reference", tol=SHARING_TOL)
        found = solve(problem, tol=SHARING_TOL, raise_on_failure=False)
        if reference.similarity is None:
            raise RuntimeError("the reference returns a similarity matrix")
        cosines = _normalized(reference.similarity)
        first, second = np.unravel_index(int(np.triu(cosines, 1).argmax()), cosines.shape)
        shared = float(cosines[first, second])
        similarities[cost] = cosines
        row = {
            "atom_cost": cost,
            "relaxed_value": reference.relaxed_value,
            "value": found.value,
            "lower_bound": max(found.lower_bound, reference.lower_bound),
            "largest_off_diagonal": shared,
            "pair": [WORDS[first], WORDS[second]],
            "certified": certify(problem, found).is_certified and certify(problem, reference).is_certified,
        }
        rows.append(row)
        pair = f"'{WORDS[first]}' and '{WORDS[second]}' share" if shared > SHARED else "no words share"
        say(
            f"   τ = {cost:<6.3f} value {found.value:.6f} ≥ bound {row['lower_bound']:.6f}   "
            f"largest off-diagonal of Q {shared:.0e}: {pair}"
        )
    for group in _groups(found):
        say(f"     at τ = 5, one atom is shared by: {', '.join(group)}")
    before, after = ([row["largest_off_diagonal"] for row in part] for part in (rows[:2], rows[2:]))
    holds = max(before) < PRIVATE and min(after) > SHARED and all(row["certified"] for row in rows)
    say(f"   {'As predicted, on both sides of τ*.' if holds else 'NOT as predicted.'}")
    return {"threshold": threshold, "rows": rows, "holds": bool(holds), "groups": _groups(found)}, similarities


def _ledger(demo: Demo) -> tuple[dict[str, Any], Comparison]:
    """The loss of trained SAEs in parts, down to the floor of every width, at two widths."""
    say = demo.say
    say("")
    say("5. The ledger. The loss of two SAEs in parts. Both were trained as usual (ReLU, L1, Adam)")
    say(f"   on {LEDGER_TOKENS:,} tokens at λ = {LAM}. SAEs, dictionaries and floors all use the mean token as bias.")
    chosen = np.sort(np.random.default_rng(2).choice(len(demo.X), size=LEDGER_TOKENS, replace=False))
    training = {"steps": LEDGER_STEPS, "batch_size": 512}
    comparison = compare(
        demo.X[chosen],
        LEDGER_WIDTHS,
        LAM,
        bias=None,
        held_out=None,
        training=training,
        stationarity=LEDGER_STATIONARITY,
        max_seconds=LEDGER_SECONDS,
        progress=demo.progress,
    )
    for result in comparison.results:
        ledger, width = result.ledger, result.ledger.n_atoms
        say(f"   width {width:<38} loss      share")
        for text, value, note in (
            ("the SAE", ledger.loss, "the SAE's own loss"),
            ("its dictionary with exact codes", ledger.exact, f"codes exact to {ledger.codes_gap:.0e}"),
            ("the best dictionary found", result.best, _how_far(result)),
            ("no dictionary of that width is below", ledger.floor, f"certified ({ledger.floor_theorem})"),
            ("no dictionary of any width is below", ledger.wide, f"certified to {ledger.wide_gap:.0e} (T9)"),
        ):
            say(f"   {text:<44} {value:<9.6f} {value / ledger.loss:>6.1%}   {note}")
    certified = all(max(r.ledger.codes_gap, r.best_codes_gap) <= LEDGER_TOL for r in comparison.results)
    certified &= all(r.ledger.wide_gap <= CODES_TOL for r in comparison.results)
    certified &= len(comparison.results) == len(LEDGER_WIDTHS)
    if not certified:
        say(f"   NOT finished: {LEDGER_SECONDS:g} s were too few for the exact codes of both widths on this machine.")
    return {**comparison.to_dict(), "certified": certified}, comparison


def _how_far(result: WidthResult) -> str:
    """Whether the search for dictionaries came to its end, or the time did."""
    if result.best_stationarity <= LEDGER_STATIONARITY:
        return f"stationary to {LEDGER_STATIONARITY:g}"
    return f"when the limit of {LEDGER_SECONDS:g} s for both widths ended the search"


def _groups(solution: Solution) -> list[list[str]]:
    """The words that share an atom, for every shared atom; the largest group first, each group once."""
    codes = np.asarray(solution.codes)
    served = {tuple(WORDS[n] for n in np.flatnonzero(column > 0.05 * column.max())) for column in codes.T}
    return [list(words) for words in sorted(served, key=lambda w: (-len(w), w)) if len(words) > 1]


def _normalized(similarity: np.ndarray) -> np.ndarray:
    scale = np.sqrt(np.clip(similarity.diagonal(), 1e-12, None))
    return similarity / np.outer(scale, scale)


def _name_thin_parts(axes: Axes, comparison: Comparison) -> None:
    """Write names and values of the gaps that are too thin to see above their bar."""
    for position, ledger in enumerate(result.ledger for result in comparison.results):
        gaps = {"amortization gap": ledger.amortization_gap, "dictionary gap": ledger.dictionary_gap}
        if text := _thin(ledger.loss, gaps):
            axes.annotate(
                text, (position, ledger.loss), (0, 3), textcoords="offset points", ha="center", fontsize="x-small"
            )


def _thin(loss: float, gaps: dict[str, float]) -> str:
    """Names and values of the parts of a bar that are too thin to see; empty if there are none."""
    thin = [f"{name} {gap:.2g}" for name, gap in gaps.items() if gap < THIN * loss]
    return "\n".join(["too thin to see:", *thin]) if thin else ""


def _figure(path: Path, report: dict[str, Any], similarities: dict[float, np.ndarray], comparison: Comparison) -> None:
    """The floor against λ, the similarity of the words before and after sharing, and the ledger."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 8.4), layout="constrained")
    FigureCanvasAgg(figure)
    (floor_axes, ledger_axes), (private_axes, shared_axes) = figure.subplots(2, 2)
    comparison.draw_ledgers(ledger_axes)
    _name_thin_parts(ledger_axes, comparison)
    ledger_axes.set(title="Where the loss of two trained SAEs goes", ylabel=LOSS_LABEL)
    handles, labels = ledger_axes.get_legend_handles_labels()
    ledger_axes.set_ylim(top=1.4 * ledger_axes.get_ylim()[1])
    ledger_axes.legend(handles[::-1], labels[::-1], frameon=False, fontsize="small", loc="upper right", ncols=2)
    ratios = [row["lam_ratio"] for row in report["wide"]]
    values = [row["value"] for row in report["wide"]]
    floor_axes.loglog(ratios, values, "o-", color=WIDE, label="floor of any width (certified to 1e-9)")
    floor_axes.fill_between(ratios, values, min(values) / 3, color=WIDE, alpha=0.12)
    found = report["dictionary"]
    floor_axes.plot(found["lam_ratio"], found["value"], "D", color=SAE)
    label = f"loss with {found['n_atoms']:,} random\ntokens as dictionary"
    at = (found["lam_ratio"], found["value"])
    floor_axes.annotate(label, at, (-8, 0), textcoords="offset points", ha="right", va="center", color=SAE)
    floor_axes.text(0.3, 0.3, "no dictionary\nreaches here", transform=floor_axes.transAxes, ha="left", color=WIDE)
    floor_axes.set(xlabel=r"$\lambda / \lambda_{\max}$", ylabel=LOSS_LABEL, title="The floor under every dictionary")
    floor_axes.set_ylim(bottom=min(values) / 3)
    floor_axes.legend(frameon=False, loc="lower right")
    costs = sorted(similarities)
    titles = {private_axes: (costs[0], "τ = 0: one atom per word"), shared_axes: (costs[-1], "τ = 5: atoms are shared")}
    for axes, (cost, title) in titles.items():
        image = axes.imshow(similarities[cost], cmap="Blues", vmin=0, vmax=1)
        axes.set(title=title)
        axes.set_xticks(range(len(WORDS)), WORDS, rotation=90)
        axes.set_yticks(range(len(WORDS)), WORDS if axes is private_axes else [""] * len(WORDS))
    figure.colorbar(image, ax=[private_axes, shared_axes], label="overlap of codes (1: same atom)", shrink=0.8)
    write_atomically(path, partial(figure.savefig, dpi=150, format="png"), "--out")

"""Which precisions screen fastest here: measured in milliseconds once per machine and shape, and kept.

No list of instruction sets is asked. Every precision multiplies the same numbers a few times; one that is not faster
than a finer one, or whose results break its own error bound on numbers chosen to break it, is left out. What was
measured lies in the user's cache folder (``$XDG_CACHE_HOME/cvxsae``, or ``~/.cache/cvxsae``), one file per processor,
its instruction sets, version of torch, threads and class of shapes. A file that cannot be read, or that is of something
else, is measured again; where none can be written, every process measures for itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from cvxsae.data.atomic import write_atomically
from cvxsae.errors import InputError
from cvxsae.parallel.machine import instruction_sets, limits, processor
from cvxsae.parallel.threads import torch_threads
from cvxsae.solvers.codes.engines.products import PRECISIONS, product
from cvxsae.solvers.codes.engines.screening import LARGEST_INT8, WIDEST_INT8, PreparedDictionary

FORMAT = 2
"""Version of the files; raised when what is measured changes."""

FASTER = 0.8
"""Share of the time of a finer product below which a coarser one is worth its wider margin."""

LEAST_GAIN = 4e-7
"""Seconds per datapoint that a coarser product on a CPU must save: rounding and rechecking cost as much."""

RECHECK = 5.0
"""Correlations of a float32 product for one that is recomputed, from which a finer product is taken instead.

One costs as much as 20 of them; but few datapoints are left for the finer product, which reads all atoms for them.
"""

MULTIPLICATIONS, MOST_ENTRIES = 2**26, 2**22
"""Of a product that is measured, and entries of its dictionary: a millisecond or two each, of 16 MB at most."""

FEWEST_ROWS, MOST_ROWS = 32, 256
"""Rows of such a product."""

REPEATS, MOST_REPEATS = 5, 40
"""Times that each product is measured, in turns, since the last that was faster than all before, and in all.

The fastest counts. Where other work keeps the processors busy, many are measured until each was left alone once.
"""

MOST_SHOWN = 4
"""Measurements that are told one by one."""

FASTER_STILL = 0.95
"""Share of the fastest time below which a product was faster than all before: a smaller difference changes nothing."""

HOPELESS, BEFORE_HOPELESS = 2.0, 1
"""Times as long as in float32 from which a product is not measured again after two turns: one without instructions
takes six, and other work in the way of a single one as much."""

LEAST_DIM, LEAST_ATOMS = 16, 256
"""Smallest class of shapes: below it products cost next to nothing."""

FEWEST_MULTIPLICATIONS = 2**14
"""Of a datapoint with all atoms, from which it is asked what is fastest: fewer take less than what else it costs."""

FEWEST_USES = 128
"""Datapoints for which a dictionary is rounded to more than float32: it takes as long as float32 products with 75."""


@dataclass(frozen=True)
class Rung:
    """One precision of the products that screen, the coarsest first in a ladder.

    Attributes
    ----------
    precision
        One of ``PRECISIONS``.
    price
        Time of a product, as a share of a float32 one's.
    rechecks
        Candidates of one datapoint, as a share of all atoms, from which the next rung is cheaper than recomputing them
        in float64; infinite on the last.
    """

    precision: str
    price: float = 1.0
    rechecks: float = math.inf


def ladder(
    dictionary: PreparedDictionary, precision: str | None = None, *, threads: int | None = None
) -> tuple[Rung, ...]:
    """Precisions to screen with, the coarsest first and float32 last.

    Parameters
    ----------
    dictionary
        Its shape, device and number of uses.
    precision
        None for those that are fast here, or one that is asked for.
    threads
        Of torch in one product; None for as many as now.

    Raises
    ------
    InputError
        If the precision that was asked for is not to be had here.
    """
    is_small = 0 < dictionary.uses < FEWEST_USES or dictionary.dim * dictionary.n_atoms < FEWEST_MULTIPLICATIONS
    if precision == "float32" or (precision is None and is_small):
        return (Rung("float32"),)
    device = dictionary.device.type
    if precision is not None:
        if not is_usable(precision, dictionary.dim, device):
            raise InputError(
                f"precision is {precision!r}, whose products are missing or wrong on this {device}; "
                "use precision='float32'."
            )
        return (Rung(precision, price=0.0, rechecks=1 / RECHECK), Rung("float32"))
    threads = torch.get_num_threads() if threads is None else threads
    stands_for = shape_class(dictionary.dim, dictionary.n_atoms)
    seconds = measured(*stands_for, str(dictionary.device), threads)
    least = LEAST_GAIN * stands_for[1] / dictionary.n_atoms if device == "cpu" else 0.0
    chosen = ["float32"]
    for name in reversed(PRECISIONS[:-1]):
        finer = seconds[chosen[0]]
        # a file says what is fast, and may be of other instructions of the same processor: not what is right here
        if seconds.get(name, math.inf) < min(FASTER * finer, finer - least) and is_usable(name, dictionary.dim, device):
            chosen.insert(0, name)
    prices = [seconds[name] / seconds["float32"] for name in chosen]
    budgets = [*(finer / RECHECK for finer in prices[1:]), math.inf]
    return tuple(map(Rung, chosen, prices, budgets))


def shape_class(d: int, K: int) -> tuple[int, int]:
    """Dimension and atoms of the product that stands for those of a shape."""
    dim = max(LEAST_DIM, 2 ** round(math.log2(d)))
    atoms = max(LEAST_ATOMS, 2 ** round(math.log2(K)))
    return dim, max(LEAST_ATOMS, min(atoms, MOST_ENTRIES // dim))


def half_is_faster(d: int, K: int, device: str, threads: int) -> bool:
    """Whether bfloat16 is worth taking for products that are checked in float64 afterwards; kept like the ladder."""
    kept = measured(*shape_class(d, K), device, threads)
    return kept.get("bfloat16", math.inf) < FASTER * kept["float32"]


@cache
def measured(d: int, K: int, device: str, threads: int) -> dict[str, float]:
    """Seconds per datapoint of each precision that can be used: as kept, or measured now."""
    key = {**_signature(device), "threads": threads, "dim": d, "atoms": K}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    file = folder() / f"products-{name}.json"
    seconds = _read(file, key)
    if seconds is None:
        seconds = _measure(d, K, torch.device(device), threads)
        with suppress(InputError, OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps({"key": key, "seconds": seconds}, indent=1) + "\n")
    return seconds


def _signature(device: str) -> dict[str, Any]:
    """What times depend on besides threads and shapes: another one is measured again."""
    return {
        "format": FORMAT,
        "processor": processor() if device == "cpu" else torch.cuda.get_device_name(device),
        "limits": limits() if device == "cpu" else {},
        "instructions": [torch.backends.cpu.get_cpu_capability(), *instruction_sets()] if device == "cpu" else [],
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "device": device,
    }


def kept() -> tuple[list[tuple[dict[str, Any], dict[str, float]]], int]:
    """What was measured on this machine, by shapes, and how many files are of another, or damaged."""
    found, others, here = [], 0, cache(_signature)
    for file in sorted(folder().glob("products-*.json")):
        try:
            key = json.loads(file.read_text(encoding="utf-8"))["key"] if file.is_file() else {}
            own, shape = here(str(key["device"])), [key[part] for part in ("dim", "atoms", "threads")]
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, AssertionError, RecursionError):
            others += 1
            continue
        known = own.items() <= key.items() and all(type(size) is int for size in shape)
        seconds = _read(file, key) if known else None
        if seconds is None:
            others += 1
        else:
            found.append((key, seconds))
    return sorted(found, key=lambda one: [one[0][part] for part in ("device", "dim", "atoms", "threads")]), others


def kept_in_words() -> str:
    """Which precisions were measured here, and how to have them measured again."""
    here, others = kept()
    if not here and not others:
        return f"none yet; they will be kept in {folder()}"
    shown = [
        f"{key['dim']} × {key['atoms']} on {key['device']}, {key['threads']} threads: "
        + ", ".join(f"{name} {1e6 * seconds[name]:.3g}" for name in seconds)
        for key, seconds in here[:MOST_SHOWN]
    ]
    rest = [f"{len(here) - MOST_SHOWN} more of this machine"] * (len(here) > MOST_SHOWN)
    rest += [f"{others} of another machine or version"] * (others > 0)
    files = folder() / "products-*.json"
    return f"{'; '.join([*shown, *rest])} (µs a row); delete {files} to have them measured again"


def folder() -> Path:
    """Where measurements are kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".cache") / "cvxsae"
    except RuntimeError:  # no home
        return Path(".cache") / "cvxsae"


def _read(file: Path, key: dict[str, Any]) -> dict[str, float] | None:
    """What a file says, if it is of this machine and shape and makes sense."""
    try:
        if not file.is_file():  # reading a pipe would wait
            return None
        held = json.loads(file.read_text(encoding="utf-8"))
        seconds = {str(name): float(value) for name, value in held["seconds"].items()}
        known = held["key"] == key and "float32" in seconds and set(seconds) <= set(PRECISIONS)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None
    return seconds if known and all(0 < value < math.inf for value in seconds.values()) else None


def _measure(d: int, K: int, device: torch.device, threads: int) -> dict[str, float]:
    n = int(min(max(MULTIPLICATIONS // (d * K), FEWEST_ROWS), MOST_ROWS))
    names = [name for name in PRECISIONS if is_usable(name, d, device.type)]
    rows, atoms = torch.full((n, d), 0.5, device=device), torch.full((K, d), 0.5, device=device)
    inputs = {name: (_as(rows, name), _as(atoms, name)) for name in names}
    outputs = {name: product(name, *inputs[name]) for name in names}  # the first is slower than all others
    seconds = dict.fromkeys(names, math.inf)
    with torch_threads(threads):
        last = 0  # turn in which a product was faster than all before
        for turn in range(MOST_REPEATS):
            for name in reversed(names):
                if turn > BEFORE_HOPELESS and seconds[name] > HOPELESS * seconds["float32"]:
                    continue
                _wait(device)
                begun = time.perf_counter()
                product(name, *inputs[name], out=outputs[name] if device.type == "cpu" else None)
                _wait(device)
                took = (time.perf_counter() - begun) / n
                last = turn if took < FASTER_STILL * seconds[name] else last
                seconds[name] = min(seconds[name], took)
            if turn - last >= REPEATS:
                break
    return {name: max(value, 1e-12) for name, value in seconds.items()}


def _as(values: torch.Tensor, precision: str) -> torch.Tensor:
    if precision == "int8":
        return (values * LARGEST_INT8).to(torch.int8)
    return values.to(torch.bfloat16) if precision == "bfloat16" else values


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@cache
def is_usable(precision: str, d: int, device_type: str) -> bool:
    """Whether products exist on a kind of device and keep their error bound on numbers chosen to break it."""
    if precision == "tf32" and device_type != "cuda":
        return False
    # in one dimension torch leaves the product on a CPU as the memory was, which a test might find to be right
    if precision == "int8" and (not 1 < d <= WIDEST_INT8 or (device_type == "cuda" and d % 8)):
        return False
    return precision == "float32" or keeps_its_bound(precision, d, torch.device(device_type))


PROBES, MANY_PROBES = 64, 1024
"""Rows and atoms of the products that try a bound, and as many atoms again and again: shapes choose their kernels."""


def keeps_its_bound(precision: str, d: int, device: torch.device) -> bool:
    """Whether a product is there, and as exact as its bound takes for granted: whole numbers are exact.

    All rows of int8 have the largest size, so that sums of two overflow 16 bits, and those in floats begin with a large
    number whose sum with the rest is lost where it is not kept in float32.
    """
    generator = torch.Generator().manual_seed(0)
    signs = (torch.randint(0, 2, (2, PROBES, d), generator=generator) * 2 - 1).to(torch.float64)
    signs[:, : PROBES // 2] = 1.0
    if precision == "int8":
        rows, atoms = signs * LARGEST_INT8
        dtype = torch.int8
    else:
        rows, atoms = signs.clone()
        rows[:, 0] *= 2.0**10
        atoms[:, 0] = 1.0
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    parts, all_atoms = (rows, rows[:1]), (atoms, atoms.repeat(MANY_PROBES // PROBES, 1))
    try:
        found = [product(precision, part.to(device, dtype), of.to(device, dtype)) for part in parts for of in all_atoms]
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    exact = [part @ of.T for part in parts for of in all_atoms]
    stored = exact if precision == "int8" else [values.to(dtype).to(torch.float64) for values in exact]
    return all(bool((a.cpu().to(torch.float64) == b).all()) for a, b in zip(found, stored, strict=True))

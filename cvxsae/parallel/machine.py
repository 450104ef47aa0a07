"""The machine that a number was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

from cvxsae._version import __version__

INSTRUCTION_SETS = (
    "avx2",
    "avx512f",
    "avx512vnni",
    "avx512bf16",
    "amx-int8",
    "amx-bf16",
    "neon",
    "dotprod",
    "i8mm",
    "bf16",
    "sve",
)
"""Those that speed depends on, by LLVM's names."""

LIMITING = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES",
)
"""Environment variables by which libraries leave instruction sets of a processor unused."""

LIBRARIES = ("numpy", "scipy", "torch", "numba", "clarabel")


def describe() -> dict[str, Any]:
    """Processor, instruction sets, cores, threads, memory, GPUs and versions, as plain values for JSON.

    Threads are those that torch would use now; memory is in GiB. Instruction sets are those of the processor, whatever
    ``limits`` keeps libraries from using.
    """
    return {
        "processor": processor(),
        "instruction_sets": instruction_sets(),
        "limits": limits(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory_gib": memory_gib(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"cvxsae": __version__, "python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def in_words() -> str:
    """Processor with its instruction sets, threads and the version of torch, in one line."""
    sets = f" ({', '.join(instruction_sets())})" if instruction_sets() else ""
    return f"{processor()}{sets}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def processor() -> str:
    """The name of the processor as Linux gives it, elsewhere its kind."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def instruction_sets() -> list[str]:
    """The instruction sets of this processor that speed depends on; none without numba, which brings what asks."""
    try:
        import llvmlite.binding
    except ImportError:
        return []
    features = llvmlite.binding.get_host_cpu_features()
    return [name for name in INSTRUCTION_SETS if features.get(name)]


def limits() -> dict[str, str]:
    """What the environment keeps libraries from using, by variable: instruction sets that the processor may have."""
    return {name: os.environ[name] for name in LIMITING if os.environ.get(name)}


def memory_gib() -> float | None:
    """The memory of the machine in GiB, or None where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None

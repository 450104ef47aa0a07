"""Colors and markers of figures: one color a meaning, and lines that differ by more than their color."""

from __future__ import annotations

from typing import Any

SAE, EXACT, LEARNED = "#d55e00", "#e69f00", "#333333"
"""A trained SAE, its dictionary with exact codes, a learned dictionary (after Okabe and Ito, for every eye)."""

LOCAL, FLOOR, SPECTRAL, WIDE = "#8fb4d8", "#4f81bd", "#8fb4d8", "#1f4e79"
"""What lies above a floor, floors, and the wide limit: blues, the lower the darker."""

LINES: tuple[dict[str, Any], ...] = tuple(
    {"color": color, "marker": marker}
    for color, marker in zip(("#0072b2", EXACT, LEARNED, "#cc79a7", "#56b4e9", SAE), "os^Dv*", strict=True)
)
"""Lines that mean different things in every figure."""

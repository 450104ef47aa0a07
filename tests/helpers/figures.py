"""What can be said of a figure without looking at it: axes are named, and no text lies on another."""

from __future__ import annotations

from itertools import combinations

from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.category import StrCategoryFormatter
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter
from matplotlib.transforms import Bbox


def faults(figure: Figure) -> list[str]:
    """Axes with numbers and no name, and pairs of texts that overlap."""
    FigureCanvasAgg(figure).draw()
    return [*_nameless(figure), *_overlapping(figure)]


def _nameless(figure: Figure) -> list[str]:
    found = []
    for axes in (axes for axes in figure.axes if axes.get_visible()):
        rows, columns = axes.get_shared_y_axes(), axes.get_shared_x_axes()
        names = {
            "x": {other.get_xlabel() for other in columns.get_siblings(axes)},
            "y": {other.get_ylabel() for other in rows.get_siblings(axes)},
        }
        for axis, which in ((axes.xaxis, "x"), (axes.yaxis, "y")):
            if _has_numbers(axis) and names[which] == {""}:
                found.append(f"axes {axes.get_title()!r}: {which} has no name")
    return found


def _has_numbers(axis: Axis) -> bool:
    words = isinstance(axis.get_major_formatter(), FixedFormatter | StrCategoryFormatter)
    return not words and axis.get_visible() and any(label.get_text() for label in axis.get_ticklabels())


def _overlapping(figure: Figure) -> list[str]:
    texts = [
        (text.get_text(), text.get_window_extent())
        for text in figure.findobj()
        if isinstance(text, Text) and text.get_visible() and text.get_text().strip() and _is_shown(text)
    ]
    return [f"{one!r} lies on {other!r}" for (one, a), (other, b) in combinations(texts, 2) if _area(a, b) > 1]


def _is_shown(text: Text) -> bool:
    """Ticks beyond the limits of their axis exist and are not drawn."""
    box, axes = text.get_window_extent(), text.axes
    if axes is None:
        return True
    if not axes.get_visible():
        return False
    frame = axes.get_window_extent()
    if text in axes.xaxis.get_ticklabels(which="both"):
        return bool(frame.x0 - 1 <= (box.x0 + box.x1) / 2 <= frame.x1 + 1)
    if text in axes.yaxis.get_ticklabels(which="both"):
        return bool(frame.y0 - 1 <= (box.y0 + box.y1) / 2 <= frame.y1 + 1)
    return True


def _area(a: Bbox, b: Bbox) -> float:
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0) * max(height, 0)

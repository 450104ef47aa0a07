"""What can be said of a figure without looking at it: axes are named, and no text lies on another."""

from __future__ import annotations

import re
from itertools import combinations

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
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
    """Words name themselves."""
    labels = [re.sub(r"mathdefault|times", "", label.get_text()) for label in axis.get_ticklabels()]
    return axis.get_visible() and any(re.search(r"\d", one) and not re.search("[A-Za-z]", one) for one in labels)


def _overlapping(figure: Figure) -> list[str]:
    hidden = {label for axes in figure.axes for label in _not_drawn(axes)}
    texts = [
        (text.get_text(), text.get_window_extent())
        for text in figure.findobj()
        if isinstance(text, Text) and text.get_visible() and text.get_text().strip() and text not in hidden
    ]
    return [
        f"{one!r} lies on {other!r}"
        for (one, a), (other, b) in combinations(texts, 2)
        if _area(a, b) > 1 and not (one == other and abs(a.x0 - b.x0) + abs(a.y0 - b.y0) < 1)  # of axes that are twins
    ]


def _not_drawn(axes: Axes) -> list[Text]:
    """Labels of ticks beyond the limits of their axis, which exist all the same, and all of axes that are hidden."""
    frame = axes.get_window_extent()
    found = []
    for axis, low, high, along in ((axes.xaxis, frame.x0, frame.x1, 0), (axes.yaxis, frame.y0, frame.y1, 1)):
        for label in axis.get_ticklabels(which="both"):
            middle = label.get_window_extent().get_points()[:, along].mean()
            if not (axes.get_visible() and low - 1 <= middle <= high + 1):
                found.append(label)
    return found


def _area(a: Bbox, b: Bbox) -> float:
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0) * max(height, 0)

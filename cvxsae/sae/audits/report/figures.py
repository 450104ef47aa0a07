"""The figures of a report, as plotly takes them: dictionaries of data and layout, from the tables alone."""

from __future__ import annotations

from typing import Any

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The palette of Okabe and Ito, which most color-blind eyes can tell apart; yellow is left out on white."""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid")
"""What tells curves apart beside color."""

LEAST_FVU = 1e-12
"""What the logarithmic axis shows for zero."""

_ROOM = 1.3
"""Length of an axis of bars over the longest of them: room for its number."""

_LAYOUT: dict[str, Any] = {
    "font": {"family": "system-ui, sans-serif", "size": 13},
    "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
    "paper_bgcolor": "#ffffff",
    "plot_bgcolor": "#ffffff",
    "hoverlabel": {"align": "left"},
}


def figures(contents: dict[str, Any]) -> dict[str, Any]:
    """The figures of a report by the names of the tables that they show."""
    tables = contents["tables"]
    found = {"levels": _levels(tables["levels"])}
    if "frontier" in tables:
        found["frontier"] = _frontier(tables["frontier"])
    return found


def column(table: dict[str, Any], name: str) -> list[Any]:
    """One column of a table."""
    place = [one["name"] for one in table["columns"]].index(name)
    return [row[place] for row in table["rows"]]


def _levels(table: dict[str, Any]) -> dict[str, Any]:
    """A bar a level: what is attained is filled, what is proved is hatched; thin lines are intervals."""
    words, values, status = (column(table, name) for name in ("level", "value", "status"))
    has_ends = "low" in [one["name"] for one in table["columns"]]
    ends = list(zip(*(column(table, name) for name in ("low", "high")), strict=True)) if has_ends else []
    bars = []
    for name, color, shape in (("attained", COLORS[0], ""), ("proved", COLORS[1], "/")):
        mine = [place for place, one in enumerate(status) if one.startswith(name)]
        bars.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "x": [values[place] for place in mine],
                "y": [words[place] for place in mine],
                "customdata": [status[place] for place in mine],
                "hovertemplate": "%{y}: %{x:.6g}<br>%{customdata}<extra></extra>",
                "texttemplate": "%{x:.4g}",
                "textposition": "outside",
                "cliponaxis": False,
                "marker": {"color": color, "pattern": {"shape": shape, "solidity": 0.2}},
                **(_errors([values[place] for place in mine], [ends[place] for place in mine]) if has_ends else {}),
            }
        )
    layout = {
        **_LAYOUT,
        "height": 320,
        "bargap": 0.25,
        "barmode": "overlay",
        "xaxis": {
            "title": {"text": "loss, mean per datapoint"},
            "automargin": True,
            "gridcolor": "#dddddd",
            "range": [0, _ROOM * max(values + [high for _, high in ends if high is not None])],
        },
        "yaxis": {"autorange": "reversed", "automargin": True, "categoryorder": "array", "categoryarray": words},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    }
    return {"data": bars, "layout": layout}


def _errors(values: list[float], ends: list[Any]) -> dict[str, Any]:
    """Bars of intervals that need not be symmetric; none where no value has one."""
    reach = [
        (0.0, 0.0) if low is None else (high - value, value - low)
        for value, (low, high) in zip(values, ends, strict=True)
    ]
    if not any(up or down for up, down in reach):
        return {}
    ups, downs = (list(side) for side in zip(*reach, strict=True))
    bars = {"type": "data", "symmetric": False, "array": ups, "arrayminus": downs, "color": "#000000"}
    return {"error_x": bars, "textposition": "inside", "insidetextanchor": "start"}  # numbers out of their way


def _frontier(table: dict[str, Any]) -> dict[str, Any]:
    """A line a curve: fraction of variance unexplained against active atoms."""
    names = column(table, "curve")
    points = list(zip(names, column(table, "l0"), column(table, "fvu"), strict=True))
    drawn = [max(fvu, LEAST_FVU) for _, _, fvu in points if fvu is not None]
    is_long = max(drawn, default=1.0) > 5 * min(drawn, default=1.0)  # a short axis has no 1, 2 or 5 to be labeled at
    data = []
    for place, name in enumerate(dict.fromkeys(names)):
        mine = [(l0, fvu) for curve, l0, fvu in points if curve == name and l0 is not None and fvu is not None]
        style = place % len(COLORS)
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if len(mine) > 1 else "markers",
                "name": name,
                "x": [l0 for l0, _ in mine],
                "y": [max(fvu, LEAST_FVU) for _, fvu in mine],
                "hovertemplate": "L0 %{x:.4g}, FVU %{y:.4g}",
                "line": {"color": COLORS[style], "dash": DASHES[style], "width": 2},
                "marker": {"color": COLORS[style], "symbol": SYMBOLS[style], "size": 9 if len(mine) > 1 else 14},
            }
        )
    layout = {
        **_LAYOUT,
        "height": 460,
        "xaxis": {
            "title": {"text": "L0: active atoms per datapoint"},
            "automargin": True,
            "gridcolor": "#dddddd",
            "rangemode": "tozero",
        },
        "yaxis": {
            "title": {"text": "unexplained variance (FVU), log axis"},
            "type": "log",
            **({"dtick": "D2"} if is_long else {}),
            "automargin": True,
            "gridcolor": "#dddddd",
        },
        "legend": {"orientation": "h", "y": -0.25, "yanchor": "top", "x": 0},
    }
    return {"data": data, "layout": layout}

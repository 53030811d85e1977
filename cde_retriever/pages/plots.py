"""Describe plots: what is drawn, the table behind it, and a sentence for those who do not see it.

A plot is a figure of Plotly as plain values; `cde_retriever.pages.page` draws it. Series differ by colour (Okabe and
Ito's, which people of all colour vision tell apart), and by dash and symbol, so that they do in black and white too.
Colours of text and grid are the page's, light or dark.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross")
LIGHT_TO_DARK = "Cividis"
"""A scale that is ordered in grey as well."""
MOST_POINTS = 3000
"""Points of a group that are drawn; of more every n-th is, and the name says so."""
MANY = 300
"""Points of a group beyond which they are small and pale, as a ground for others."""
Value = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Rows of values under headings.

    Attributes:
        headings: One a column.
        rows: Values, one a column each; numbers are aligned right.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[Value]]


@dataclass(frozen=True)
class Plot:
    """A plot with its table.

    Attributes:
        title: What it shows.
        alt: What one sees in it, in a sentence.
        traces: Plotly's traces.
        layout: Plotly's layout.
        table: The numbers behind it.
    """

    title: str
    alt: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    table: Table


def axis(title: str, **settings: Any) -> dict[str, Any]:
    """Return an axis with a title."""
    return {"title": {"text": title}, **settings}


def lines(
    title: str, alt: str, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, x: str, y: str
) -> Plot:
    """Return a plot of lines.

    Args:
        title: What it shows.
        alt: What one sees in it.
        series: Of each name its x and y.
        x: Title of the x axis.
        y: Title of the y axis.
    """
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(xs) <= 60 else "lines",
            "name": name,
            "x": list(xs),
            "y": finite(ys),
            "line": {"color": COLOURS[place % 7], "dash": DASHES[place % 7]},
            "marker": {"symbol": SYMBOLS[place % 7], "size": 7},
        }
        for place, (name, (xs, ys)) in enumerate(series.items())
    ]
    rows = [(name, a, b) for name, (xs, ys) in series.items() for a, b in zip(xs, ys, strict=True)]
    layout = {"xaxis": axis(x, zeroline=False), "yaxis": axis(y)}
    return Plot(title, alt, traces, layout, Table(("series", x, y), rows))


def intervals(
    title: str, alt: str, rows: Sequence[tuple[str, float, float, float]], *, x: str, chosen: str | None = None
) -> Plot:
    """Return a plot of one point a row with its interval, the first row at the top, and a line at 0.

    Args:
        title: What it shows.
        alt: What one sees in it.
        rows: Name, value and the ends of its interval.
        x: Title of the axis.
        chosen: The row that is marked by another colour and symbol.
    """
    marked = [name == chosen for name, *_ in rows]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": finite([value for _, value, _, _ in rows]),
        "y": [name for name, *_ in rows],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": finite([high - value for _, value, _, high in rows]),
            "arrayminus": finite([value - low for _, value, low, _ in rows]),
            "color": COLOURS[6],
        },
        "marker": {
            "color": [COLOURS[1] if mark else COLOURS[0] for mark in marked],
            "symbol": [SYMBOLS[5] if mark else SYMBOLS[0] for mark in marked],
            "size": [14 if mark else 9 for mark in marked],
        },
    }
    layout = {
        "xaxis": axis(x, zeroline=True),
        "yaxis": {"autorange": "reversed", "automargin": True},
        "showlegend": False,
        "height": 120 + 30 * len(rows),
    }
    return Plot(title, alt, [trace], layout, Table(("", x, "from", "to"), rows))


def points(
    title: str,
    alt: str,
    groups: Mapping[str, Sequence[tuple[float, float, str]]],
    *,
    x: str,
    y: str,
    equal: bool = False,
) -> Plot:
    """Return a plot of labelled points, each group on top of those before it.

    Args:
        title: What it shows.
        alt: What one sees in it.
        groups: Of each name x, y and label of its points.
        x: Title of the x axis.
        y: Title of the y axis.
        equal: Whether a unit is as long on both axes.
    """
    drawn: dict[str, Sequence[tuple[float, float, str]]] = {}
    for name, group in groups.items():
        part = group[:: -(-len(group) // MOST_POINTS) or 1]
        drawn[name if len(part) == len(group) else f"{name} ({len(part)} of {len(group)})"] = part
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": finite([a for a, _, _ in group]),
            "y": finite([b for _, b, _ in group]),
            "text": [label[:200] for _, _, label in group],
            "hoverinfo": "text",
            "marker": {
                "color": COLOURS[(place - 1) % 7],
                "symbol": SYMBOLS[place % 7],
                "size": 5 if len(group) > MANY else 8 + 2 * place,
                "opacity": 0.5 if len(group) > MANY else 0.9,
            },
        }
        for place, (name, group) in enumerate(drawn.items())
    ]
    layout = {"xaxis": axis(x), "yaxis": axis(y, **({"scaleanchor": "x"} if equal else {})), "height": 520}
    rows = [(name, label[:200], a, b) for name, group in drawn.items() for a, b, label in group]
    return Plot(title, alt, traces, layout, Table(("group", "", x, y), rows))


def heat_map(
    title: str,
    alt: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[float]]],
    *,
    x: str,
    y: str,
) -> Plot:
    """Return a plot of a matrix, each value written into its cell.

    Args:
        title: What it shows.
        alt: What one sees in it.
        columns: Names of the columns.
        rows: Name and values of each row.
        x: What the columns are.
        y: What the rows are.
    """
    trace = {
        "type": "heatmap",
        "x": list(columns),
        "y": [name for name, _ in rows],
        "z": [finite(values) for _, values in rows],
        "texttemplate": "%{z:.1f}",
        "colorscale": LIGHT_TO_DARK,
    }
    layout: dict[str, Any] = {
        "xaxis": axis(x, type="category", automargin=True),
        "yaxis": axis(y, type="category", autorange="reversed", automargin=True),
        "height": 180 + 34 * len(rows),
    }
    layout["yaxis"]["title"]["standoff"] = 16  # or names lie on it
    return Plot(title, alt, [trace], layout, Table(("", *columns), [(name, *values) for name, values in rows]))


def moves(title: str, alt: str, ways: Sequence[str], ranks: Sequence[tuple[str, Sequence[int | None]]]) -> Plot:
    """Return a plot of how ranks of documents change from one way of ranking to the next.

    Args:
        title: What it shows.
        alt: What one sees in it.
        ways: Names of the ways, from left to right.
        ranks: Of each document its name and its rank by each way, from 1; None where it is not among the first. The
            first document's line is the widest.
    """
    lowest = max((rank for _, row in ranks for rank in row if rank), default=1)
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name[:60],
            "x": list(ways),
            "y": list(row),
            "connectgaps": False,
            "line": {"color": COLOURS[place % 7], "dash": DASHES[(place // 7) % 7], "width": 2 if place else 4},
            "marker": {"symbol": SYMBOLS[place % 7], "size": 9 if place else 12},
        }
        for place, (name, row) in enumerate(ranks)
    ]
    layout = {
        "xaxis": {"type": "category", "side": "top", "automargin": True},  # where no legend is in the way
        "yaxis": axis("rank", range=[lowest + 0.7, 0.3], tickvals=[1, *range(5, lowest + 1, 5)], zeroline=False),
        "height": 420 + 20 * len(ranks),  # the legend has a line for each
        "legend": {"orientation": "h", "y": -0.02, "yanchor": "top"},
    }
    return Plot(title, alt, traces, layout, Table(("document", *ways), [(name, *row) for name, row in ranks]))


def finite(values: Sequence[float]) -> list[float | None]:
    """Return numbers as a page may hold them: what is not finite is left out."""
    return [float(value) if math.isfinite(value) else None for value in values]

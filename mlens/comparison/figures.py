"""The report's plots as SVG text: small, sharp in print, without scripts."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# Text stays text, in the reader's fonts; the same input gives the same file.
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "mlens", "text.parse_math": False, "font.size": 9}
COLOURS = matplotlib.color_sequences["tab10"]
LINES = ("-", "--", ":")


@dataclass(frozen=True)
class Curve:
    """A line of a plot.

    label: its name in the legend.
    x, y: its points.
    group: curves of one group share a colour.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    group: int


@matplotlib.rc_context(STYLE)
def intervals(labels: Sequence[str], values: Sequence[tuple[float, float, float]], what: str) -> str:
    """Plot a point with its interval for each label, top to bottom.

    values: (value, low, high) of each label.
    what: label of the axis.
    """
    figure = Figure(figsize=(7, 0.8 + 0.35 * len(labels)), layout="constrained")
    axes = figure.subplots()
    for i, (value, low, high) in enumerate(values):
        axes.errorbar(
            value, i, xerr=[[max(0.0, value - low)], [max(0.0, high - value)]], fmt="o", capsize=3, color=_colour(i)
        )
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(what)
    axes.grid(axis="x", alpha=0.3)
    return _svg(figure)


@matplotlib.rc_context(STYLE)
def curves(lines: Sequence[Curve], x: str, y: str, diagonal: bool = False) -> str:
    """Plot lines with a mark at each point; the first of each group is in the legend."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    if diagonal:
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    seen: dict[int, int] = {}
    for line in lines:
        number = seen[line.group] = seen.get(line.group, -1) + 1
        axes.plot(
            line.x,
            line.y,
            marker=".",
            color=_colour(line.group),
            linestyle=LINES[number % len(LINES)],
            label=line.label if number == 0 else None,
        )
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    _legend(figure)
    return _svg(figure)


@matplotlib.rc_context(STYLE)
def groups(labels: Sequence[str], values: Sequence[Mapping[str, float]], x: str, y: str) -> str:
    """Plot a bar for each label in each group, with groups in the order of their lower edges."""
    names = sorted({name for value in values for name in value}, key=_lower_edge)
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / max(1, len(labels))
    for i, (label, value) in enumerate(zip(labels, values, strict=True)):
        places = [n + (i - (len(labels) - 1) / 2) * width for n, name in enumerate(names) if name in value]
        axes.bar(places, [value[name] for name in names if name in value], width, label=label, color=_colour(i))
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    _legend(figure)
    return _svg(figure)


def _lower_edge(name: str) -> tuple[float, str]:
    """Return the sort key of a group such as `5-19` or `1000+`; other names come last."""
    digits = re.match("[0-9]{1,12}", name)
    return float(digits[0]) if digits else float("inf"), name


def _legend(figure: Figure) -> None:
    """Put the legend below the axes, where it hides nothing."""
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)


def _colour(number: int):
    return COLOURS[number % len(COLOURS)]


def _svg(figure: Figure) -> str:
    """Return the figure as an <svg> element, without the document's head."""
    text = io.StringIO()
    with warnings.catch_warnings():
        # Characters missing from the font used for measuring; the reader's fonts draw them.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]

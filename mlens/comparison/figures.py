"""The report's plots as SVG elements: selectable text, no scripts, and the page's colours for text and lines.

Every plot can be read in black and white: arms have markers of their own, and what is better points to the left. Its
title and description, which screen readers read, hold its figures.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Colours that follow the page, dark or light: drawn as these, which nothing else is drawn as, and replaced in the SVG.
INK, MUTED, GRID, PAPER = "#1c2430", "#5a6675", "#d6dbe2", "#fefefe"
PAGE_COLOURS = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--line)", PAPER: "var(--paper)"}
# Text stays text, in the reader's fonts; the same input gives the same file.
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mlens",
    "text.parse_math": False,
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
} | dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
# The palette of Okabe and Ito ("Color Universal Design", 2008) without yellow, which is faint on white. Green and
# vermilion are kept for what is better and worse.
COLOURS = ("#0072B2", "#E69F00", "#CC79A7", "#56B4E9", INK)
GREEN, VERMILION = "#009E73", "#D55E00"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":")
# Distances of ticks: multiples of these, times powers of ten.
STEPS = (1, 2, 5, 10)
# Characters of a label: in a line, and in all.
LINE, LONGEST = 28, 96
# Where a label may be broken: at spaces, and between a setting and its long value.
WORDS = re.compile(r"(\s+|[^\s=]*=(?=\S{16}))")
# Inches: size of a plot of curves or groups.
OF_GROUPS = (5.8, 3.7)
# Inches: of a line of a label, between two rows, and of what is below a plot.
LINE_HEIGHT, GAP, BELOW = 0.15, 0.11, 0.6


@dataclass(frozen=True)
class Look:
    """How a point is drawn.

    colour: one of the colours above.
    marker: matplotlib's name of its marker.
    filled: whether the marker is filled; hollow ones have the colour at their edge.
    """

    colour: str
    marker: str
    filled: bool = True


BASELINE = Look(MUTED, "d", filled=False)
BETTER, WORSE, UNCERTAIN = Look(GREEN, "<"), Look(VERMILION, ">"), Look(MUTED, "o", filled=False)


def look_of_arm(number: int) -> Look:
    """Return the colour and marker of an arm: those of the first 35 arms differ."""
    return Look(COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)])


@dataclass(frozen=True)
class Dot:
    """A value with its 95% interval (None: it has none)."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" ({self.low:.3f} to {self.high:.3f})"
        return f"{self.value:.4f}{interval}"


@dataclass(frozen=True)
class PlotRow:
    """A row of a plot of intervals.

    label: its name.
    dot: what it shows; None leaves the row empty.
    look: how it is drawn.
    """

    label: str
    dot: Dot | None
    look: Look


@dataclass(frozen=True)
class Curve:
    """A line of a plot.

    label: its name in the legend.
    x, y: its points.
    group: curves of one group share a colour and a marker.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    group: int


@matplotlib.rc_context(STYLE)
def intervals(
    title: str, rows: Sequence[PlotRow], x: str, line: float, width: float, labels: int = LINE, printed: str = ""
) -> str:
    """Plot a point with its interval in each row, top to bottom.

    Points without an interval far from all others are drawn as an arrow at the edge.

    x: label of the axis.
    line: value at which a vertical line is drawn.
    width: in inches.
    labels: number of characters in a line of a row's label.
    printed: format of the values at the right, such as `.4f` (empty: none).
    """
    names = [wrapped(row.label, labels) for row in rows]
    heights = [LINE_HEIGHT * (1 + name.count("\n")) + GAP for name in names]
    places = [sum(heights[:i]) + height / 2 for i, height in enumerate(heights)]
    figure = Figure(figsize=(width, sum(heights) + BELOW + LINE_HEIGHT * x.count("\n")), layout="constrained")
    axes = figure.subplots()
    low, high = _limits([row.dot for row in rows if row.dot], line)
    axes.set_xlim(low, high)
    axes.set_ylim(sum(heights), 0)
    axes.axvline(line, color=MUTED, linewidth=1, linestyle="--", zorder=1)
    for row, place in zip(rows, places, strict=True):
        if row.dot is None:
            continue
        if low <= row.dot.value <= high:
            _draw(axes, row.dot, row.look, place)
        else:
            right = row.dot.value > high
            arrow, end, side = ("→", high, "right") if right else ("←", low, "left")
            axes.text(end, place, arrow, ha=side, va="center", color=MUTED, fontsize=11)
        if printed:
            axes.annotate(
                f"{row.dot.value:{printed}}", (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8
            )
    axes.set_yticks(places, names, fontsize=8.5)
    axes.tick_params(axis="y", length=0)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(INK if row.look.filled else MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=max(4, int(width)), steps=STEPS))
    axes.set_xlabel(x)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    return _svg(figure, title, "; ".join(f"{row.label}: {row.dot}" for row in rows if row.dot))


def _draw(axes: Axes, dot: Dot, look: Look, y: float) -> None:
    """Draw a value and its interval along x."""
    if dot.low is not None and dot.high is not None:
        axes.hlines(y, dot.low, dot.high, color=look.colour, linewidth=1.6)
    axes.plot(dot.value, y, **_marker(look))


def _marker(look: Look) -> dict[str, Any]:
    """Return the arguments of matplotlib's plot for a marker."""
    return {
        "marker": look.marker,
        "markersize": 6,
        "markeredgecolor": look.colour,
        "markerfacecolor": look.colour if look.filled else PAPER,
        "linestyle": "none",
    }


def _limits(dots: Sequence[Dot], line: float) -> tuple[float, float]:
    """Return the ends of an axis that shows the line, all intervals, and the points without one that are no farther
    from these than half their extent."""
    ends = [line, *(end for dot in dots for end in (dot.low, dot.high) if end is not None)]
    low, high = min(ends), max(ends)
    span = high - low or 0.1
    near = [dot.value for dot in dots if low - span / 2 <= dot.value <= high + span / 2]
    low, high = min([low, *near]), max([high, *near])
    return low - 0.04 * (high - low or 1), high + 0.04 * (high - low or 1)


@matplotlib.rc_context(STYLE)
def curves(title: str, lines: Sequence[Curve], x: str, y: str, diagonal: bool = False) -> str:
    """Plot lines with a mark at each point; the first of each group is in the legend."""
    figure = Figure(figsize=OF_GROUPS, layout="constrained")
    axes = figure.subplots()
    if diagonal:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
    seen: dict[int, int] = {}
    for line in lines:
        number = seen[line.group] = seen.get(line.group, -1) + 1
        look = look_of_arm(line.group)
        axes.plot(
            line.x,
            line.y,
            marker=look.marker,
            markersize=4,
            color=look.colour,
            linewidth=1.2,
            linestyle=LINES[number % len(LINES)],
            label=_shortened(line.label) if number == 0 else None,
        )
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=STEPS, integer=not diagonal))
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid()
    _legend(figure, axes)
    ends = (f"{one.label}: {one.y[0]:.4f} at {one.x[0]:.4g} to {one.y[-1]:.4f} at {one.x[-1]:.4g}" for one in lines)
    return _svg(figure, title, "; ".join(ends))


@matplotlib.rc_context(STYLE)
def groups(title: str, labels: Sequence[str], values: Sequence[Mapping[str, Dot]], x: str, y: str) -> str:
    """Plot a point with its interval for each label in each group, with groups in the order of their lower edges."""
    names = sorted({name for value in values for name in value}, key=_lower_edge)
    figure = Figure(figsize=OF_GROUPS, layout="constrained")
    axes = figure.subplots()
    step = 0.7 / max(1, len(labels))
    for i, (label, value) in enumerate(zip(labels, values, strict=True)):
        look = look_of_arm(i)
        shown = [(n + (i - (len(labels) - 1) / 2) * step, value[name]) for n, name in enumerate(names) if name in value]
        for place, dot in shown:
            if dot.low is not None and dot.high is not None:
                axes.vlines(place, dot.low, dot.high, color=look.colour, linewidth=1.4)
        axes.plot(
            [place for place, _ in shown],
            [dot.value for _, dot in shown],
            label=_shortened(label),
            **_marker(look) | {"markersize": 5},
        )
    axes.set_xticks(range(len(names)), names)
    axes.set_xticks([n + 0.5 for n in range(len(names) - 1)], minor=True)
    axes.tick_params(axis="x", length=0, which="both")
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="x", which="minor")
    axes.grid(axis="y")
    _legend(figure, axes)
    of_groups = (
        f"{name}: "
        + ", ".join(f"{label} {value[name]}" for label, value in zip(labels, values, strict=True) if name in value)
        for name in names
    )
    return _svg(figure, title, "; ".join(of_groups))


def _lower_edge(name: str) -> tuple[float, str]:
    """Return the sort key of a group such as `5-19` or `1000+`; other names come last."""
    digits = re.match("[0-9]{1,12}", name)
    return float(digits[0]) if digits else float("inf"), name


def wrapped(label: str, width: int) -> str:
    """Break each line of a label into lines of at most `width` characters; the middle of a very long one is left out.

    >>> wrapped("fixed_count 10 prompt.trim=newest_ratings_first", 28)
    'fixed_count 10 prompt.trim=\\nnewest_ratings_first'
    """
    wrapper = textwrap.TextWrapper(width)
    wrapper.wordsep_re = WORDS
    return "\n".join(line for part in label.split("\n") for line in wrapper.wrap(_shortened(part))) or label


def _shortened(label: str) -> str:
    half = LONGEST // 2 - 1
    return label if len(label) <= LONGEST else f"{label[:half]}…{label[-half:]}"


def _legend(figure: Figure, axes: Axes) -> None:
    """Put the legend below the axes, where it hides nothing, in as many columns as its labels leave room for."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=0)
    figure.legend(
        handles,
        [wrapped(label, 3 * LINE) for label in labels],
        loc="outside lower center",
        ncols=max(1, min(3, 3 * LINE // (longest + 4))),
        fontsize=8,
        frameon=False,
    )


def _svg(figure: Figure, title: str, description: str) -> str:
    """Return the figure as an <svg> element with its title and description, without the document's head."""
    text = io.StringIO()
    with warnings.catch_warnings():
        # Characters missing from the font used for measuring; the reader's fonts draw them.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = text.getvalue()
    # Text is escaped, so that every `<` begins a tag or a comment.
    svg = re.sub("<[^<>]*>", lambda tag: _with_page_colours(tag[0]), svg[svg.index("<svg") :])
    head, _, body = svg.partition(">")
    return f'{head} role="img"><title>{escape(title)}</title><desc>{escape(description)}</desc>{body}'


def _with_page_colours(tag: str) -> str:
    """Replace the colours that follow the page in a tag, and drop the number of a group, which other plots have too."""
    tag = re.sub(r'^<g id="[A-Za-z0-9._]*">$', "<g>", tag)
    return re.sub("#[0-9a-f]{6}", lambda colour: PAGE_COLOURS.get(colour[0], colour[0]), tag)

"""Pictures of runs and data, as bare matplotlib figures: no pyplot, no global state, safe in a thread."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from itertools import accumulate
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's blue and vermilion, which the colour-blind tell apart, and a grey that reads on white and on black.
BLUE, VERMILION, INK = "#0072B2", "#D55E00", "#808080"
# The rest of their colours that read on both, and lines that differ without any colour: together 30 kinds of line.
COLOURS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES: tuple[Any, ...] = ("solid", (0, (6, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (12, 3)))
MARKERS = "osD^v"
# One hue from faint to full: fewer fades into the ground, be it white or black, and needs no sense of colour.
SHADES = LinearSegmentedColormap.from_list("shades", [(*to_rgb(BLUE), 0.2), (*to_rgb(BLUE), 1.0)])

NAMED, NUMBERED = 40, 14  # classes up to which a matrix has names, and numbers
LONGEST = 28  # letters of a name on a line


class Picture(Figure):
    """A figure on a transparent ground that a notebook shows as it is, without ``%matplotlib inline``."""

    def png(self) -> bytes:
        """Draw it at twice the resolution at which it is shown."""
        out = BytesIO()
        self.savefig(out, format="png", dpi=2 * self.dpi, transparent=True)
        return out.getvalue()

    def html(self, alt: str, style: str = "max-width:100%;height:auto") -> str:
        """Write it as an ``<img>`` that carries its pixels, with what it shows in words."""
        pixels, shown = self._repr_png_()
        source = f"data:image/png;base64,{b64encode(pixels).decode()}"
        return f'<img alt="{escape(alt)}" width="{shown["width"]}" style="{style}" src="{source}">'

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = self.get_size_inches() * self.dpi
        return self.png(), {"width": int(width), "height": int(height)}


def loss_curve(
    losses: Sequence[tuple[float, float]],
    eval_losses: Sequence[tuple[float, float]] = (),
    size: tuple[float, float] = (6.4, 3.2),
    unit: str = "nats",
) -> Picture:
    """Draw losses over steps.

    Parameters
    ----------
    losses, eval_losses : sequence of (step, loss)
        Train and eval losses.
    size : tuple of float
        Width and height in inches.
    unit : str, default "nats"
        Of the losses.

    Returns
    -------
    Picture
        With its own canvas.
    """
    figure, axes = _axes(size, "step", f"loss ({unit})")
    if losses:
        axes.plot(*zip(*losses, strict=True), color=BLUE, linewidth=1.5)
    if eval_losses:
        axes.plot(*zip(*eval_losses, strict=True), "o-", color=VERMILION, linewidth=1, markersize=4, clip_on=False)
    _name_ends(axes, [(losses, "train loss", BLUE), (eval_losses, "eval loss", VERMILION)])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def loss_curves(
    curves: Mapping[str, tuple[Sequence[tuple[float, float]], Sequence[tuple[float, float]]]],
    size: tuple[float, float] = (9.6, 3.4),
    unit: str = "nats",
) -> Picture:
    """Draw the losses of several runs over each other.

    Parameters
    ----------
    curves : mapping of str to (losses, eval_losses)
        Of each run by its name, as for :func:`loss_curve`. Train losses are drawn as a running mean.
    size, unit
        As for :func:`loss_curve`.

    Returns
    -------
    Picture
        Train losses on the left; eval losses on the right, where there are any.
    """
    figure = Picture(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    titles = [f"train loss ({unit})"] + [f"eval loss ({unit})"] * any(evals for _, evals in curves.values())
    drawn = [
        _styled(figure.add_subplot(1, len(titles), place, xlabel="step", ylabel=title))
        for place, title in enumerate(titles, 1)
    ]
    lines = {}
    for place, (name, (losses, evals)) in enumerate(curves.items()):
        style = {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place % len(DASHES)]}
        if losses:
            steps, values = zip(*losses, strict=True)
            (lines[name],) = drawn[0].plot(steps, running_mean(values), linewidth=1.8, **style)
        if evals:
            marker = MARKERS[place % len(MARKERS)]
            (lines[name],) = drawn[1].plot(*zip(*evals, strict=True), marker=marker, markersize=4, **style)
    for axes in drawn:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend = figure.legend(
        lines.values(),
        map(str, range(len(lines))),
        loc="outside upper center",
        ncols=min(max(len(lines), 1), 5),
        frameon=False,
        labelcolor=INK,
        handlelength=4,
    )
    for text, name in zip(legend.get_texts(), lines, strict=True):  # a name is no formula, whatever it begins with
        text.set(text=_cut(name), parse_math=False)
    return figure


def scatter(
    points: Mapping[str, Sequence[tuple[float, float]]],
    across: str,
    up: str,
    steps: Sequence[tuple[float, float]] = (),
    log: bool = False,
    size: tuple[float, float] = (6.4, 3.2),
) -> Picture:
    """Draw points of several kinds.

    Parameters
    ----------
    points : mapping of str to sequence of (x, y)
        Of each kind, by its name.
    across, up : str
        What the axes are.
    steps : sequence of (x, y), optional
        Values that each hold until the next, such as the best so far.
    log : bool, default False
        Whether x is on a logarithmic scale.
    size : tuple of float
        Width and height in inches.

    Returns
    -------
    Picture
        With its own canvas.
    """
    figure, axes = _axes(size, across, up)
    for place, (kind, some) in enumerate((kind, some) for kind, some in points.items() if some):
        marker, colour = MARKERS[place % len(MARKERS)], COLOURS[place % len(COLOURS)]
        axes.plot(*zip(*some, strict=True), marker, color=colour, markersize=5, label=kind, clip_on=False)
    if steps:
        axes.step(*zip(*steps, strict=True), where="post", color=INK, linewidth=1.5, label="best so far")
    if log:
        axes.set_xscale("log")
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside upper center", ncols=4, frameon=False, labelcolor=INK)
    return figure


def running_mean(values: Sequence[float]) -> list[float]:
    """Mean over a twentieth of the curve around each point: single steps are too noisy to lie over each other."""
    reach = len(values) // 40
    ends = [(max(0, place - reach), min(len(values), place + reach + 1)) for place in range(len(values))]
    sums = [0.0, *accumulate(values)]
    return [(sums[after] - sums[before]) / (after - before) for before, after in ends]


def histogram(
    values: Sequence[int], limit: int | None = None, label: str = "tokens", size: tuple[float, float] = (4.8, 1.8)
) -> Picture:
    """Draw how often values occur.

    Parameters
    ----------
    values : sequence of int
        Such as the lengths of rows.
    limit : int, optional
        Where a dashed line stands, when any value comes near it.
    label : str, default "tokens"
        What the values are.
    size : tuple of float
        Width and height in inches.

    Returns
    -------
    Picture
        With its own canvas.
    """
    figure, axes = _axes(size, label, "rows")
    if values:
        axes.hist(values, bins=min(40, max(values) - min(values) + 1), color=BLUE)
        if limit is not None and max(values) > limit / 2:
            axes.axvline(limit, color=VERMILION, linestyle="--", linewidth=1.5, label=f"limit {limit:,}")
            axes.legend(frameon=False, labelcolor=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # one where all values are the same
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    return figure


def watched(found: Sequence[tuple[Any, str, float]], level: float, size: tuple[float, float] = (6.4, 2.6)) -> Picture:
    """Draw p-values of tests over time, small ones high.

    Parameters
    ----------
    found : sequence of (datetime, str, float)
        When, which test, and its p-value.
    level : float
        At which a test raises an alarm, drawn as a line.
    size : tuple of float
        Width and height in inches.

    Returns
    -------
    Picture
        With its own canvas.
    """
    figure, axes = _axes(size, "", "p-value")
    for number, name in enumerate(dict.fromkeys(name for _, name, _ in found)):
        points = [(at, p) for at, own, p in found if own == name]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        times, values = zip(*points, strict=True)
        axes.plot(times, values, color=colour, marker=marker, markersize=4, linewidth=1, label=_cut(name))
    axes.axhline(level, color=INK, linestyle="--", linewidth=1)
    axes.set_yscale("log")
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=8)
    ticks = AutoDateLocator(minticks=2, maxticks=5)
    axes.xaxis.set_major_locator(ticks)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(ticks))
    axes.legend(frameon=False, labelcolor=INK, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _axes(size: tuple[float, float], across: str, up: str) -> tuple[Picture, Axes]:
    """Make a figure with its own canvas and bare axes."""
    figure = Picture(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, _styled(figure.add_subplot(xlabel=across, ylabel=up))


def _styled(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(INK)
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return axes


def _name_ends(axes: Axes, curves: Sequence[tuple[Sequence[tuple[float, float]], str, str]]) -> None:
    """Write the name of each curve, in its colour, behind its end: the higher a little up, the lower one down."""
    ends = sorted(((points[-1], name, colour) for points, name, colour in curves if points), key=lambda end: -end[0][1])
    for place, (end, name, colour) in enumerate(ends):
        offset = (6, -8 if place else 2)
        axes.annotate(name, end, offset, textcoords="offset points", color=colour, fontsize=9, annotation_clip=False)


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def confusion(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Picture:
    """Draw which classes are taken for which.

    Parameters
    ----------
    names : sequence of str
        The classes; shown as they are, up to 40 of them.
    counts : sequence of (true class, predicted class, number of texts)
        Classes by their places in ``names``; pairs that never occur are left out.

    Returns
    -------
    Picture
        A square a pair, coloured by its share of the true class; empty where there is none. Numbers stand in the
        squares of up to 14 classes.
    """
    size = len(names)
    side = min(max(3.4, 1.8 + 0.27 * size), 10.0)
    figure = Picture(figsize=(side + 0.8, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="predicted", ylabel="true")
    totals: dict[int, int] = {}
    for true, _, count in counts:
        totals[true] = totals.get(true, 0) + count
    shares = [[math.nan] * size for _ in names]  # nan is left transparent, on white and on black
    for true, given, count in counts:
        shares[true][given] = count / totals[true]
        if size <= NUMBERED:
            rim = [withStroke(linewidth=2.5, foreground=BLUE)]  # reads on faint squares, be the ground white or black
            style = {"ha": "center", "va": "center", "color": "white", "fontsize": 9}
            axes.text(given, true, f"{count:,}", style, path_effects=rim)
    image = axes.imshow(shares, cmap=SHADES, vmin=0, vmax=1)
    places = range(size if size <= NAMED else 0)
    told = [fill(name, LONGEST) for name in names]
    for axis, turned in ((axes.xaxis, 90), (axes.yaxis, 0)):
        axis.set_ticks(places, [told[place] for place in places], rotation=turned, fontsize=8, parse_math=False)
        axis.label.set_color(INK)
    axes.tick_params(colors=INK, length=0)
    axes.spines[:].set_color(INK)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.ax.yaxis.label.set_color(INK)
    bar.outline.set_edgecolor(INK)
    return figure

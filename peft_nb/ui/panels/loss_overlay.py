"""The losses of several runs over each other, as live charts and a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle
from typing import NamedTuple

import bqplot
import ipywidgets
import numpy

from peft_nb.plots import COLOURS, running_mean
from peft_nb.runs.compare import Points
from peft_nb.ui.differences import clean
from peft_nb.ui.view import thin

DASHES = {"solid": "none", "dashed": "9 5", "dotted": "2 5", "dash_dotted": "9 4 2 4"}  # bqplot's, as SVG has them
MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down")
MOST_POINTS = 1_000  # of a curve; a screen shows no more


class Line(NamedTuple):
    """How the line of a run looks: no two of the first 60 alike, nor of the first 4 without colour."""

    colour: str
    dash: str
    marker: str


def lines(names: Sequence[str]) -> dict[str, Line]:
    """Give each name a line of its own."""
    looks = zip(names, cycle(COLOURS), cycle(DASHES), cycle(MARKERS), strict=False)
    return {name: Line(*look) for name, *look in looks}


def thinned(points: Points) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Leave so many points of a curve that it still looks the same, see :func:`peft_nb.ui.view.thin`.

    Parameters
    ----------
    points : list of (step, loss)
        The curve, in order.

    Returns
    -------
    tuple of numpy.ndarray
        Steps and losses, at most `MOST_POINTS` of each.
    """
    x, y = numpy.array(points, dtype=float).reshape(-1, 2).T.copy()
    kept = thin(x, y, MOST_POINTS)
    return x[kept], y[kept]


def overlay(curves: Mapping[str, tuple[Points, Points]]) -> list[ipywidgets.Widget]:
    """Draw train losses, as running means, and eval losses of runs over each other.

    Parameters
    ----------
    curves : mapping of str to (losses, eval_losses)
        Of each run by its name, as (step, loss in nats).

    Returns
    -------
    list of ipywidgets.Widget
        A legend and one or two charts beside each other; nothing where nothing was logged.
    """
    drawn = {name: both for name, both in curves.items() if any(both)}
    looks = lines(list(drawn))
    smooth = {
        name: list(zip([step for step, _ in train], running_mean([loss for _, loss in train]), strict=True))
        for name, (train, _) in drawn.items()
    }
    tested = {name: evals for name, (_, evals) in drawn.items()}
    charts = [
        _chart(title, sides, looks, marked)
        for title, sides, marked in (("train loss (nats)", smooth, False), ("eval loss (nats)", tested, True))
        if any(sides.values())
    ]
    if not charts:
        return []
    beside = ipywidgets.Box(charts, layout={"flex_flow": "row wrap", "width": "100%", "overflow": "visible"})
    return [ipywidgets.HTML(legend(looks)), beside]


def _chart(title: str, curves: Mapping[str, Points], looks: Mapping[str, Line], marked: bool) -> bqplot.Figure:
    scales = {"x": bqplot.LinearScale(), "y": bqplot.LinearScale()}
    marks = []
    for name, points in curves.items():
        x, y = thinned(points)
        colour, dash, marker = looks[name]
        shape = {"marker": marker, "marker_size": 36} if marked else {}
        marks.append(bqplot.Lines(x=x, y=y, scales=scales, colors=[colour], line_style=dash, stroke_width=2, **shape))
    upright = {"orientation": "vertical", "label_offset": "44px", "tick_format": ".3~g"}
    axes = [
        bqplot.Axis(scale=scales["x"], label="step", grid_lines="none"),
        bqplot.Axis(scale=scales["y"], label=title, grid_lines="none", **upright),
    ]
    margin = {"top": 12, "bottom": 44, "left": 60, "right": 16}
    layout = {"flex": "1 1 300px", "height": "260px", "min_width": "0"}
    return bqplot.Figure(
        marks=marks,
        axes=axes,
        fig_margin=margin,
        background_style={"fill": "none"},
        display_toolbar=False,
        layout=layout,
    )


def legend(looks: Mapping[str, Line]) -> str:
    """Say which line is whose, as HTML; the names may come from anywhere and are escaped."""
    told = ""
    for name, (colour, dash, _) in looks.items():
        sample = (
            f'<line x1="0" y1="6" x2="36" y2="6" stroke="{colour}" stroke-width="2" stroke-dasharray="{DASHES[dash]}"/>'
        )
        picture = f'<svg width="36" height="12" aria-hidden="true">{sample}</svg>'
        told += (
            f'<span style="overflow-wrap:anywhere;margin-right:16px">{picture} <bdi>{escape(clean(name))}</bdi></span>'
        )
    return f'<div style="line-height:1.6">{told}</div>'

"""Curves over the steps as a chart, whose pointer, keyboard, zoom and scale work in the front end.

So it answers while the kernel is busy with a cell. However many steps there are, about a thousand points of a curve are
drawn; once the kernel is free, zooming in brings the others back.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anywidget
import numpy
import traitlets

from peft_nb.ui.view import Curve, thin

HERE = Path(__file__).parent
POINTS = 1000
SMOOTHING = {"none": 0.0, "light": 0.6, "medium": 0.9, "strong": 0.98}
FUTURE = 20  # times the steps done, for which there is room at most: or a young curve of a long run were a dot


@dataclass(frozen=True)
class Line:
    """A curve and how it looks.

    Attributes
    ----------
    name : str
        What the legend calls it; it may come from anywhere.
    curve : Curve
        Its values by step.
    pane : str
        The title of the plot in which it is drawn; plots lie beside each other over the same steps.
    colour : int
        Its place among the colours of the style sheet, which knows light and dark.
    dash : tuple of int
        Pixels drawn and left out, in turn; nothing is left out by default.
    noisy : bool
        Whether it is drawn smoothed.
    marked : bool
        Whether each of its few points is marked.
    share : bool
        Whether its values lie between 0 and 1.
    pale : bool
        Whether it stands back behind the others.
    """

    name: str
    curve: Curve
    pane: str
    colour: int = 0
    dash: tuple[int, ...] = field(default=())
    noisy: bool = False
    marked: bool = False
    share: bool = False
    pale: bool = False


class Chart(anywidget.AnyWidget):
    """Lines over the steps, in one plot or several under one row of controls; nothing while there are no values.

    Attributes
    ----------
    lines : list of dict
        What is drawn, with its numbers as bytes.
    end : int
        The last step for which there is room.
    view : list of float
        The first and the last step in view; empty for all.
    smoothing : str
        A key of `SMOOTHING`.
    log_scale : bool
        Whether losses are on a logarithmic scale.
    hidden : list of str
        Names of the lines that are switched off.
    others : list of str
        What can be drawn behind the lines.
    behind : str
        One of them; empty for none.
    """

    # One file is all that a widget loads; the library becomes a variable of the module.
    _esm = "\n".join(HERE.joinpath(name).read_text("utf-8") for name in ("uplot/uPlot.iife.min.js", "chart.js"))
    _css = "\n".join(HERE.joinpath(name).read_text("utf-8") for name in ("uplot/uPlot.min.css", "chart.css"))
    lines: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    end = traitlets.Int().tag(sync=True)
    view: traitlets.List[float] = traitlets.List().tag(sync=True)
    smoothing = traitlets.Unicode("light").tag(sync=True)
    log_scale = traitlets.Bool().tag(sync=True)
    hidden: traitlets.List[str] = traitlets.List().tag(sync=True)
    others: traitlets.List[str] = traitlets.List().tag(sync=True)
    behind = traitlets.Unicode().tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        self._shown: tuple[Sequence[Line], int] = (), 0
        self._writing = threading.RLock()
        super().__init__(**traits)
        self.layout.display = "none"
        self.observe(lambda _: self._draw(), "view")

    def draw(self, lines: Sequence[Line], total: int = 0) -> None:
        """Show these lines from now on, with room for all the steps that are planned."""
        lines = [line for line in lines if line.curve]
        if (lines, total) == self._shown:
            return
        with self._writing:
            self._shown = lines, total
            self._draw()

    def _draw(self) -> None:
        with self._writing, self.hold_sync():
            lines, total = self._shown
            newest = max((int(line.curve.arrays()[0][-1]) for line in lines), default=0)
            self.lines = [_sent(line, *(self.view or (0, numpy.inf))) for line in lines]
            self.end = max(min(total, FUTURE * newest), newest)
            self.layout.display = None if lines else "none"


def _sent(line: Line, low: float, high: float) -> dict[str, Any]:
    steps, values = line.curve.arrays()
    kept = drawn(steps, values, low, high)
    levels = [smoothed(values, weight)[kept] for weight in (SMOOTHING.values() if line.noisy else (0.0,))]
    look = {name: getattr(line, name) for name in ("name", "pane", "colour", "noisy", "marked", "share", "pale")}
    numbers = {"x": steps[kept].astype(float).tobytes(), "y": [level.tobytes() for level in levels]}
    return {**look, "dash": list(line.dash), **numbers}


def smoothed(values: numpy.ndarray, weight: float) -> numpy.ndarray:
    """Smooth a curve by an exponential mean that starts at the mean of the first values, not at one noisy batch.

    Parameters
    ----------
    values : numpy.ndarray
        One value a logged step.
    weight : float
        Of what was before, from 0 (nothing is smoothed) to below 1.

    Returns
    -------
    numpy.ndarray
        As many values.
    """
    import pandas

    if not weight or not len(values):
        return values
    first = values[: round(1 / (1 - weight))].mean()
    return pandas.Series([first, *values[1:]]).ewm(alpha=1 - weight, adjust=False).mean().to_numpy()


def drawn(steps: numpy.ndarray, values: numpy.ndarray, low: float, high: float) -> numpy.ndarray:
    """Choose the points to draw: the outline of all, and what lies in view in full detail.

    Parameters
    ----------
    steps, values : numpy.ndarray
        The curve, steps ascending.
    low, high : float
        The steps in view.

    Returns
    -------
    numpy.ndarray
        Places of at most `POINTS` points.
    """
    first, last = numpy.searchsorted(steps, [low, high]) + numpy.array([-1, 1])
    first, last = max(first, 0), min(last, len(steps))
    inside = first + thin(steps[first:last], values[first:last], POINTS * 3 // 4)
    return numpy.union1d(thin(steps, values, POINTS - len(inside)), inside)

"""The loss curves of a run as a chart: log scale, smoothing, values under the pointer, pan and zoom.

However many steps there are, about a thousand points are drawn; zooming in brings the others back.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import bqplot
import ipywidgets
import numpy

from peft_nb.ui import wording
from peft_nb.ui.panels.panel import button, row
from peft_nb.ui.view import Curve, thin

POINTS = 1000
TOUCHED = 200  # of them, where the pointer finds values
BLUE, VERMILION = "#2a7fc9", "#d55e00"  # Okabe and Ito's, dark enough on white and light enough on black
SMOOTHING = {"none": 0.0, "light": 0.6, "medium": 0.9, "strong": 0.98}
SHOWN = {"all steps": 1.0, "the last half": 0.5, "the last tenth": 0.1, "the last hundredth": 0.01}
NARROW: dict[str, Any] = {"style": {"description_width": "initial"}, "layout": {"width": "auto"}}
FUTURE = 20  # times the steps done, for which there is room at most: or a young curve of a long run were a dot
LEAST = 1e-9  # a loss of nothing has no logarithm


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


def step_ticks(low: float, high: float, most: int = 7) -> list[int]:
    """Choose whole numbers at equal distances in a range, each once."""
    span = max(high - low, 1)
    distance = next(d for d in (n * 10**e for e in range(12) for n in (1, 2, 5)) if span / d <= most - 1)
    return list(range(math.ceil(low / distance) * distance, math.floor(high) + 1, distance))


def loss_format(values: numpy.ndarray) -> str:
    """Choose so many decimals, the same for all ticks, that neighbouring ones differ."""
    span = float(numpy.ptp(values)) if len(values) else 0.0
    return f".{min(max(2 - math.floor(math.log10(span or 1)) - 1, 1), 6)}f"


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


class _Drawing:
    """The marks of the chart on one kind of loss scale."""

    def __init__(self, steps: bqplot.Scale, losses: bqplot.Scale) -> None:
        scales = {"x": steps, "y": losses}
        tip = {"fields": ["x", "y"], "labels": ["step", "loss"], "formats": [",d", ".4f"]}
        self.raw = bqplot.Lines(x=[], y=[], scales=scales, colors=[BLUE], stroke_width=1)
        self.smooth = bqplot.Lines(x=[], y=[], scales=scales, colors=[BLUE], stroke_width=2.5)
        self.evals = bqplot.Lines(x=[], y=[], scales=scales, colors=[VERMILION], line_style="dashed")
        # Shows nothing but makes room for the steps that are still to come.
        self.planned = bqplot.Lines(x=[], y=[], scales=scales, opacities=[0.0], preserve_domain={"y": True})
        named = {"scales": scales, "default_size": 12, "font_weight": "bold", "x_offset": 8}
        self.names = [
            bqplot.Label(x=[], y=[], text=[name], colors=[colour], **named)
            for name, colour in (("train loss", BLUE), ("eval loss", VERMILION))
        ]
        self.tests = bqplot.Scatter(
            x=[], y=[], scales=scales, colors=[VERMILION], marker="diamond", tooltip=bqplot.Tooltip(**tip)
        )
        # Lines know no values under the pointer; these points are there to be found only.
        self.touched = bqplot.Scatter(
            x=[], y=[], scales=scales, colors=[BLUE], default_size=120, opacities=[0.0],
            tooltip=bqplot.Tooltip(**tip),
        )  # fmt: skip
        self.marks = [self.raw, self.smooth, self.evals, self.touched, self.tests, self.planned, *self.names]
        style = {"grid_lines": "solid", "grid_color": "rgba(128,128,128,0.25)"}
        self.axes = [
            bqplot.Axis(scale=steps, label="step", tick_format=",d", **style),
            bqplot.Axis(scale=losses, label="loss (nats)", side="left", num_ticks=6, label_offset="45px", **style),
        ]
        self.pan = bqplot.PanZoom(scales={"x": [steps], "y": [losses]})


class LossChart:
    """Train and eval loss over the steps.

    Attributes
    ----------
    box : ipywidgets.VBox
        The chart and its controls.
    """

    def __init__(self) -> None:
        self._curves = Curve(), Curve()
        self._writing = threading.RLock()
        self._total = 0
        self._steps = bqplot.LinearScale()
        self._losses = {False: bqplot.LinearScale(), True: bqplot.LogScale()}
        self._drawings = {log: _Drawing(self._steps, scale) for log, scale in self._losses.items()}
        self.figure = bqplot.Figure(
            fig_margin={"top": 10, "bottom": 45, "left": 65, "right": 80},
            layout=ipywidgets.Layout(width="100%", height="300px", min_width="0"),
            display_toolbar=False,
            padding_x=0.02,
            padding_y=0.05,
        )
        self.log = ipywidgets.Checkbox(description="Log scale", indent=False, layout=NARROW["layout"])
        self.smoothing = ipywidgets.Dropdown(description="Smoothing", options=list(SMOOTHING), value="light", **NARROW)
        self.shown = ipywidgets.Dropdown(description="Show", options=list(SHOWN), **NARROW)
        self.pan = ipywidgets.Checkbox(description="Pan and zoom by pointer", indent=False, layout=NARROW["layout"])
        self.reset = button("Reset view", self._reset, help="Show all steps again")
        self.step = ipywidgets.BoundedIntText(description="Values at step", min=0, max=0, **NARROW)
        self.told = ipywidgets.HTML()
        self.told.add_class("peft-nb-values")
        self.log.observe(lambda _: self._choose_scale(), "value")
        self.pan.observe(lambda _: self._choose_scale(), "value")
        self.smoothing.observe(lambda _: self.redraw(), "value")
        self.shown.observe(lambda _: self._unzoom(), "value")
        self.step.observe(lambda _: self._tell(), "value")
        self._steps.observe(lambda _: self.redraw(), ["min", "max"])
        self.box = ipywidgets.VBox(
            [
                self.figure,
                row(self.log, self.smoothing, self.shown, self.pan, self.reset, self.step, self.told),
            ]
        )
        self.box.add_class("peft-nb-chart")
        self._choose_scale()

    def draw(self, losses: Curve, evals: Curve, total: int = 0) -> None:
        """Show these curves from now on, with room for all the steps that are planned; nothing before there are any."""
        if (losses, evals) == self._curves and total == self._total:
            return
        self._curves, self._total = (losses, evals), total
        self.redraw()

    def redraw(self) -> None:
        """Draw the curves as the controls say."""
        with self._writing:
            losses, evals = self._curves
            begin = self.newest * (1 - SHOWN[self.shown.value])
            steps, values = _since(begin, *losses.arrays())
            tests, tested = _since(begin, *evals.arrays())
            smooth = smoothed(values, SMOOTHING[self.smoothing.value])
            view = self._steps.min or 0.0, self._steps.max or numpy.inf
            kept, few = drawn(steps, values, *view), drawn(tests, tested, *view)
            touched = kept[:: len(kept) // TOUCHED + 1]
            drawing = self._drawings[self.log.value]
            drawing.raw.opacities = [0.0 if smooth is values else 0.6]
            _put(drawing.raw, steps[kept], values[kept])
            _put(drawing.smooth, steps[kept], smooth[kept])
            _put(drawing.touched, steps[touched], smooth[touched])
            _put(drawing.evals, tests[few], tested[few])
            _put(drawing.tests, tests[few], tested[few])
            last = max(min(self._total, FUTURE * self.newest), self.newest)
            _put(drawing.planned, numpy.array([begin, last]), numpy.repeat(smooth[-1:], 2)[:2])
            _beside(drawing.names, (steps, smooth), (tests, tested))
            across, up = drawing.axes
            across.tick_values = step_ticks(self._steps.min or begin, self._steps.max or last)
            up.tick_format = ".3~g" if self.log.value else loss_format(numpy.concatenate([values, tested]))
            self.box.layout.display = None if losses or evals else "none"
            self._follow()
            self._tell()

    @property
    def newest(self) -> int:
        """The last logged step, or 0."""
        steps, _ = self._curves[0].arrays()
        return int(steps[-1]) if len(steps) else 0

    def _follow(self) -> None:
        """Keep the chosen step at the end while nobody has chosen another."""
        at_end = self.step.value == self.step.max
        self.step.max = self.newest
        if at_end:
            self.step.value = self.newest

    def _tell(self) -> None:
        losses, evals = self._curves
        said = [
            f"{name} {wording.loss(value)}" + (f" (step {step:,})" if step != self.step.value else "")
            for name, curve in (("train loss", losses), ("eval loss", evals))
            if curve
            for step, value in [nearest(curve, self.step.value)]
        ]
        # What moves on by itself, many times a second, is not announced; what somebody looks up is.
        role = ' role="status"' if self.step.value < self.step.max else ""
        self.told.value = f"<span{role}>{' · '.join(said)}</span>"

    def _choose_scale(self) -> None:
        with self._writing:
            drawing = self._drawings[self.log.value]
            self.redraw()
            with self.figure.hold_sync():
                self.figure.marks, self.figure.axes = drawing.marks, drawing.axes
                self.figure.interaction = drawing.pan if self.pan.value else None

    def _unzoom(self) -> None:
        with self._writing:
            for scale in (self._steps, *self._losses.values()):
                scale.min = scale.max = None
            self.redraw()

    def _reset(self) -> None:
        self.shown.value = next(iter(SHOWN))
        self._unzoom()


def _beside(names: list[Any], *curves: tuple[numpy.ndarray, numpy.ndarray]) -> None:
    """Put each name behind the end of its curve, the higher one a little up and the lower one down."""
    ends = [values[-1] if len(values) else -math.inf for _, values in curves]
    for name, (steps, values), end in zip(names, curves, ends, strict=True):
        name.y_offset = -8 if end == max(ends) else 12
        _put(name, steps[-1:], values[-1:])


def nearest(curve: Curve, step: int) -> tuple[int, float]:
    """The point of a curve that is nearest to a step."""
    steps, values = curve.arrays()
    place = int(numpy.abs(steps - step).argmin())
    return int(steps[place]), float(values[place])


def _since(step: float, steps: numpy.ndarray, values: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    return steps[steps >= step], values[steps >= step]


def _put(mark: Any, steps: numpy.ndarray, values: numpy.ndarray) -> None:
    """Give a mark both coordinates at once: with one alone the front end would draw nonsense."""
    with mark.hold_sync():
        mark.x, mark.y = steps.astype(float), numpy.maximum(values, LEAST)

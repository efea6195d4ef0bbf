"""What a chart shows of runs: the curves of one as it learns, or those of several over each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import count

from peft_nb.metrics import METRICS, Metric
from peft_nb.tasks import TASKS
from peft_nb.ui.panels.chart import Line
from peft_nb.ui.view import Curve, RunView

COLOURS = 6  # of the style sheet
# Lines that differ without any colour: together 30 kinds of line.
DASHES: tuple[tuple[int, ...], ...] = ((), (10, 4), (3, 3), (10, 4, 3, 4), (20, 5))
SCORED = 2  # the first colour of what is scored, behind those of the losses


def of_run(view: RunView) -> list[Line]:
    """Draw the losses of a run, and below or beside them what else was measured on the eval set.

    Parameters
    ----------
    view : RunView
        What is known about it.

    Returns
    -------
    list of Line
        Train and eval loss in one plot, shares such as accuracy in another, and each other metric in its own.
    """
    pane = f"loss ({TASKS[view.task].loss_unit})"
    losses = [
        Line("train loss", view.losses, pane, noisy=True),
        Line("eval loss", view.evals, pane, colour=1, dash=DASHES[1], marked=True),
    ]
    colours = count(SCORED)
    return losses + [_scored(key, curve, next(colours) % COLOURS) for key, curve in view.scores.items()]


def _scored(key: str, curve: Curve, colour: int) -> Line:
    metric = METRICS.get(key, Metric(key))
    name = metric.title or key
    share = metric.unit in ("share", "score") and not metric.pane
    evaluated = bool(metric.better) or key.startswith("eval_") or not metric.pane
    pane = metric.pane or ("score" if share else name)
    return Line(name, curve, pane, colour=colour, marked=evaluated, noisy=not evaluated, share=share)


def behind(lines: list[Line], name: str) -> list[Line]:
    """Let the lines of a run stand back behind those of another, with the name of their run."""
    return [replace(line, name=f"{name}: {line.name}", pale=True) for line in lines]


def of_runs(runs: Mapping[str, RunView]) -> list[Line]:
    """Draw several runs over each other: train losses in one plot, eval losses and each metric in others.

    Parameters
    ----------
    runs : mapping of str to RunView
        By the names to show them with.

    Returns
    -------
    list of Line
        No two of the first 30 names look alike, nor of the first 5 without colour.
    """
    found = []
    for place, (name, view) in enumerate(runs.items()):
        train, held_out, *others = of_run(view)
        losses = (replace(one, pane=one.pane.replace("loss", one.name, 1)) for one in (train, held_out))
        for line in (*losses, *(replace(one, pane=one.name) for one in others)):
            found.append(replace(line, name=name, colour=place % COLOURS, dash=DASHES[place % len(DASHES)]))
    return found

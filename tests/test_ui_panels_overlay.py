from __future__ import annotations

import time
from collections.abc import Callable

import numpy

from peft_nb.events import StepLogged
from peft_nb.runs.run import Run
from peft_nb.ui.panels.overlay import Overlay


def steps(chart: Overlay, name: str) -> list[float]:
    found = [one["x"] for one in chart.lines if (one["name"], one["pane"]) == (name, "train loss (nats)")]
    return numpy.frombuffer(b"".join(found)).tolist()


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_curves_of_a_run_at_work_go_on_beside_those_of_a_finished_one(
    start: Callable[..., Run], finished: Run
) -> None:
    run = start(max_steps=100_000)
    chart = Overlay({"done": finished, "new": run, "base": None})
    done = [event.step for event in finished.events() if isinstance(event, StepLogged)]
    assert steps(chart, "done") == done
    until(lambda: len(steps(chart, "new")) > 2)
    before, planned = len(steps(chart, "new")), chart.end
    assert planned > max(*done, *steps(chart, "new"))
    until(lambda: len(steps(chart, "new")) > before)
    run.stop()
    run.wait()
    logged = [event.step for event in run.events() if isinstance(event, StepLogged)]
    until(lambda: steps(chart, "new") == logged)  # none is lost, none comes twice
    assert steps(chart, "done") == done
    until(lambda: chart.end == max(*done, *logged))


def test_where_nothing_was_logged_nothing_is_shown() -> None:
    chart = Overlay({"base": None})
    assert (chart.lines, chart.layout.display) == ([], "none")

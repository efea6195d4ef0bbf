"""The curves of several runs over each other, which go on while any of the runs is at work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft_nb.runs.run import Run, active
from peft_nb.ui.live import Live
from peft_nb.ui.panels.chart import Chart
from peft_nb.ui.panels.curves import of_runs
from peft_nb.ui.surfaces import Surface
from peft_nb.ui.view import RunView, replay


class Overlay(Chart):
    """A chart of runs.

    Parameters
    ----------
    runs : mapping of str to Run or None
        By the names to show them with; None, the base model, has no curves.
    """

    def __init__(self, runs: Mapping[str, Run | None]) -> None:
        super().__init__()
        trained = {name: run for name, run in runs.items() if run}
        self._views = {name: replay(run.events()) for name, run in trained.items()}
        self.renew({})
        for name, run in trained.items():
            if run in active():
                Live(on=_Follower(self, name)).join(run)

    def renew(self, views: Mapping[str, RunView]) -> None:
        """Draw what is known now of some of the runs, with that of the others."""
        with self._writing:
            self._views |= views
            planned = max((view.total_steps for view in self._views.values() if view.active), default=0)
            self.draw(of_runs(self._views), planned)


class _Follower(Surface):
    """Where one of the runs is shown."""

    interval_s = 1.0

    def __init__(self, chart: Overlay, name: str) -> None:
        self._chart, self._name = chart, name

    def running(self, view: RunView, clock_s: float) -> None:
        """Draw it as it stands."""
        self._chart.renew({self._name: view})

    def ended(self, view: RunView, metrics: Mapping[str, Any], name: str | None) -> None:
        """Draw all of it."""
        self._chart.renew({self._name: view})

    def broke(self, error: Exception) -> None:
        """Leave the curves as they were; the run's own panel says what went wrong."""

"""The panel of a sweep: how it stands, its charts and its trials, and buttons that stop it and let it go on."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING

import ipywidgets

from peft_nb.runs.context import Inputs
from peft_nb.system import frontend
from peft_nb.ui import sweep_page
from peft_nb.ui.panels.panel import Panel, Tell, button, row

if TYPE_CHECKING:
    from peft_nb.ui.sweep import Sweep

DRAW_S = 1.0  # between two drawings
UNHEARD = (
    "While a cell is running, no button of a panel reaches the kernel here. To stop the sweep, press the notebook's "
    "own interrupt button (■): the trials at work end after their current step, and what is done is kept."
)


class SweepPanel(Panel):
    """Shows one sweep; whoever follows it calls :meth:`draw`.

    Parameters
    ----------
    sweep : Sweep
        At work, or from the store.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.command = sweep, f"%peft sweep {sweep.id}"
        self._drawn: tuple[float, int] | None = None
        self.state, self.table, self.time, self.bars, self.front = (ipywidgets.HTML() for _ in range(5))
        self.stop = button("Stop", self._stop, help="End the sweep; trials end after their current step")
        self.resume = button("Resume", self._resume, help="Go on where the sweep was")
        self.x, self.y = (
            ipywidgets.Dropdown(description=name, style={"description_width": "initial"})
            for name in ("Scatter: x", "y")
        )
        self.scatter = ipywidgets.HTML()
        for one in (self.x, self.y):
            one.observe(lambda _: self._draw_scatter(), "value")
        unheard = [] if frontend.comms_while_busy() else [ipywidgets.HTML(f"<p>{escape(UNHEARD)}</p>")]
        beside = ipywidgets.Box(
            [self.time, ipywidgets.VBox([row(self.x, self.y), self.scatter]), self.front, self.bars]
        )
        beside.add_class("peft-nb-grid-of-charts")
        super().__init__(f"sweep {sweep.id}", [self.state, row(self.stop, self.resume), *unheard, beside, self.table])
        self.draw(now=True)

    def draw(self, now: bool = False) -> None:
        """Show how the sweep stands, if that is due and anything has changed, or `now`."""
        clock, version = time.monotonic(), self.sweep.version
        if not now and self._drawn and (clock - self._drawn[0] < DRAW_S or version == self._drawn[1]):
            return
        self._drawn = (clock, version)
        sweep, record = self.sweep, self.sweep.record
        self.state.value = sweep_page.state(sweep.spec, record)
        self.table.value = sweep_page.table(sweep.spec, record, sweep.progress)
        self.time.value = sweep_page.over_time(sweep.spec, record)
        self.front.value = sweep_page.pareto(sweep.spec, record)
        self.bars.value = sweep_page.bars(sweep.importances)
        self._offer(sweep_page.numbers(sweep.spec, record), sweep_page.axes(sweep.spec, record))
        self._draw_scatter()
        self.stop.disabled, self.resume.disabled = not sweep.at_work, sweep.at_work

    def _offer(self, names: list[str], usual: tuple[str, str]) -> None:
        """Let any number of the trials be chosen, once there are the usual two, and keep what is chosen."""
        if not {*usual} <= {*names}:
            return
        for field, first in zip((self.x, self.y), usual, strict=True):
            if list(field.options) != names:
                chosen = field.value or first
                field.options = names
                field.value = chosen if chosen in names else first

    def _draw_scatter(self) -> None:
        if self.x.value and self.y.value:
            record = self.sweep.record
            self.scatter.value = sweep_page.scatter(self.sweep.spec, record, self.x.value, self.y.value)

    def _stop(self) -> None:
        self.attempt(self._stopped)

    def _stopped(self) -> str:
        self.sweep.stop()
        return "the sweep stops; trials at work end after their current step"

    def _resume(self) -> None:
        def work(tell: Tell) -> str:
            self.sweep.go_on(Inputs(namespace=frontend.variables()))
            self.sweep.wait()
            return sweep_page.headline(self.sweep.spec, self.sweep.record)

        self.in_background("searching", work, lambda: self.draw(now=True), self.draw)

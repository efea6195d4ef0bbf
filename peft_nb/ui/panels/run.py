"""The panel of a run: what it does now, its curves, what it answers, and buttons for what can be done with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets

from peft_nb.adapters.exporters import EXPORTERS
from peft_nb.runs.compare import BASE, gather
from peft_nb.system import frontend
from peft_nb.tasks import TASKS
from peft_nb.ui import status, summary
from peft_nb.ui.chat import chat
from peft_nb.ui.compare import OPTIONS, Comparison
from peft_nb.ui.panels import curves
from peft_nb.ui.panels.chart import Chart, Line
from peft_nb.ui.panels.export import ExportForm
from peft_nb.ui.panels.panel import TICK_S, Panel, Tell, button, progress, put, row
from peft_nb.ui.surfaces import Surface
from peft_nb.ui.view import RunView, replay

if TYPE_CHECKING:
    from peft_nb.runs.run import Run

OTHERS = 50  # runs that can be drawn behind one
CHART_S = 1.0  # between two drawings: a browser that cannot keep up would show presses of buttons late
UNHEARD = (
    "While a cell is running, no button of a panel reaches the kernel here. To stop the run, press the notebook's own "
    "interrupt button (■): the run ends after its current step, saved and usable."
)


class RunPanel(Panel):
    """Shows one run; whoever follows the run calls :meth:`draw`.

    Parameters
    ----------
    run : Run
        At work, or from the store.
    resume : callable
        Lets the run go on, shown here, and returns at once.
    """

    def __init__(self, run: Run, resume: Callable[[], None]) -> None:
        self._run, self._go_on = run, resume
        self._status, self._charted, self._view = "", 0.0, RunView()
        self._page = self._text = ""
        self.command = f"%peft show {run.id}"
        self._comparison: Comparison | None = None
        self._obstacles: dict[str, str] = {}
        self._exported = ""
        self._facts, self._samples, self._summary = (ipywidgets.HTML() for _ in range(3))
        self.chart, self._behind = Chart(), list[Line]()
        self._others = others(run)
        self.chart.others = list(self._others)
        self.chart.observe(lambda _: self.attempt(self._compare_curves), "behind")
        self.stop = button("Stop", self._stop, help="End the run after its current step; what it learned is kept")
        self.resume = button("Resume", self._resume, help="Resume from the last checkpoint")
        self.save = button("Save", self._save, help="Write the adapter as a PEFT folder")
        self.merge = button("Merge", self._merge, help="Write a plain model with the adapter in its weights")
        self.export = button("Export", self._export, help="Write the run in a format that others can use")
        self.compare = button("Compare", self._compare, help="Ask the run and its base model the same")
        ask = "Chat" if TASKS[run.spec.task].generates else "Try it"
        self.chat = button(ask, self._chat, help="Ask the run, and its base model where it writes texts")
        self.called = ipywidgets.Text(
            value=run.spec.name or run.id,
            description="Save as",
            tooltip="Save writes the folder NAME-adapter, Merge NAME-merged, Export NAME and what the format is called",
            style={"description_width": "initial"},
        )
        self._below = ipywidgets.VBox()
        super().__init__(f"panel of run {run.id}", [])
        buttons = (self.stop, self.resume, self.save, self.merge, self.export, self.compare, self.chat)
        keyboard, *_ = self.box.children
        unheard = [] if frontend.comms_while_busy() else [ipywidgets.HTML(f"<p>{escape(UNHEARD)}</p>")]
        # What a button does is said right below it, not below the chart.
        above = [keyboard, self._facts, row(*buttons, self.called), self._outcome, *unheard]
        self._samples.add_class("peft-nb-samples")
        beside = ipywidgets.Box([self.chart, self._samples])
        beside.add_class("peft-nb-beside")
        self.box.children = [*above, beside, self._summary, self._below]
        self.box.add_class("peft-nb-run")

    def draw(self, view: RunView, clock_s: float | None = None) -> None:
        """Show what is known; parameters as of :func:`peft_nb.ui.status.html`."""
        self._facts.value = status.html(view, clock_s if view.active else None)
        self._samples.value = status.samples(view)
        self._samples.layout.display = None if view.samples else "none"
        if not view.active or time.monotonic() - self._charted >= CHART_S:
            self._charted = time.monotonic()
            self._view = view
            self._draw_curves()
        if view.status == self._status:
            return
        self._status = view.status
        if view.active:  # the summary of a run that goes on again no longer holds
            self._summary.value = self._page = ""
            self._text = f"{summary.headline(view)} when this was saved; {self.command} shows how it stands"
            self.keep()
        usable = view.status == "finished" or (not view.active and view.checkpoint is not None)
        self.stop.disabled, self.stop.description = not view.active, "Stop"
        # A run that failed before its first step would fail again in the same way.
        self.resume.disabled = not (view.status == "stopped" or (view.status == "failed" and view.checkpoint))
        for made in (self.save, self.merge, self.export, self.compare, self.chat):
            made.disabled = not usable
        self.say(summary.headline(view))

    def _draw_curves(self) -> None:
        total = self._view.total_steps if self._view.active else 0
        self.chart.draw([*curves.of_run(self._view), *self._behind], total)

    def _compare_curves(self) -> None:
        """Draw the curves of the run that was chosen pale behind those of this one."""
        name = self.chart.behind
        events = self._run.store.events(self._others[name]) if name else []
        self._behind = curves.behind(curves.of_run(replay(events)), name)
        self._draw_curves()

    def sum_up(self, view: RunView, metrics: Mapping[str, Any], name: str | None) -> None:
        """Show what came of the run, here and in the page; parameters as of `summary.html`."""
        self._summary.value = summary.html(view, metrics, name, whole=False)
        self._page = summary.html(view, metrics, name) + status.samples(view)
        self._text = summary.text(view, metrics, name)
        self.keep()

    def page(self) -> str:
        """Return the summary with the sample answers, once the run has ended."""
        return self._page or super().page()

    def text(self) -> str:
        """Say the summary, or that the run was at work."""
        return self._text or super().text()

    def _stop(self) -> None:
        self.attempt(self._ask_to_stop)

    def _ask_to_stop(self) -> str:
        again = self.stop.description != "Stop"
        self._run.stop(now=again)
        self.stop.description = "Abort"
        return "aborting; the last checkpoint is kept" if again else "stopping after this step; press again to abort"

    def _resume(self) -> None:
        self.attempt(self._ask_to_go_on)

    def _ask_to_go_on(self) -> str:
        self._go_on()
        return "resuming from the last checkpoint"

    def _save(self) -> None:
        folder = f"{self.called.value.strip()}-adapter"
        self.in_background("saving", lambda tell: f"saved in {self._run.save(folder, progress=progress(tell))}")

    def _merge(self) -> None:
        folder = f"{self.called.value.strip()}-merged"

        def merge(tell: Tell) -> str:
            made = self._run.merge(folder, progress=progress(tell))
            return str(made).splitlines()[0]

        self.in_background("merging", merge)

    def _export(self) -> None:
        def look(tell: Tell) -> str:
            self._obstacles = {name: self._run.export_obstacle(name) for name in EXPORTERS}
            return "choose a format below"

        self.in_background("looking at the formats", look, self._show_formats)

    def _show_formats(self) -> None:
        self._formats = ExportForm(self._obstacles, self._write)
        put(self._below, self._formats.box)

    def _write(self, as_: str, options: dict[str, Any]) -> None:
        path = f"{self.called.value.strip()}{EXPORTERS[as_].suffix}"
        variables = frontend.variables()  # found here: the thread that writes has none

        def write(tell: Tell) -> str:
            self._exported = ""
            made = self._run.export(path, as_, variables, progress=progress(tell), **options)
            if isinstance(made, Path):
                return f"exported to {made}"
            self._exported = made._repr_html_()
            return repr(made).splitlines()[0]

        self.in_background("exporting", write, lambda: self._formats.show(self._exported))

    def _compare(self) -> None:
        def ask(tell: Tell) -> str:
            self._comparison = None
            asked = {self._run.id: self._run, BASE: None}
            told = gather(asked, None, progress(tell), **OPTIONS)
            self._comparison = Comparison(told)
            return "compared with its base model; see below"

        self.in_background("comparing", ask, self._show_comparison)

    def _show_comparison(self) -> None:
        if self._comparison:
            put(self._below, self._comparison.panel.box)

    def _chat(self) -> None:
        self.attempt(self._show_chat)

    def _show_chat(self) -> str:
        put(self._below, chat(self._run).panel.box)
        return "talk to it below"


def others(run: Run) -> dict[str, str]:
    """Find the newest finished runs on the base of a run; their ids by their titles."""
    found = [one for one in run.store.all() if (one.status, one.model) == ("finished", run.spec.model)]
    return {one.title: one.id for one in found[:OTHERS] if one.id != run.id}


class EmbeddedSurface(Surface):
    """Shows a run, by a panel of its own, in the panel of something else.

    Parameters
    ----------
    box : ipywidgets.Box
        Where.
    ended : callable
        Called with what is known once the run has ended.
    """

    interval_s = TICK_S

    def __init__(self, box: ipywidgets.Box, ended: Callable[[RunView], None]) -> None:
        self._box, self._ended = box, ended

    def attach(self, run: Run, resume: Callable[[], None]) -> None:
        """Make the panel."""
        self._panel = RunPanel(run, resume)
        put(self._box, self._panel.box)

    def running(self, view: RunView, clock_s: float) -> None:
        """Show how far the run is."""
        self._panel.draw(view, clock_s)

    def broke(self, error: Exception) -> None:
        """Say it in the panel."""
        self._panel.fail(error)

    def ended(self, view: RunView, metrics: Mapping[str, Any], name: str | None) -> None:
        """Show what came of it."""
        self._panel.draw(view)
        self._panel.sum_up(view, metrics, name)
        self._ended(view)

"""Where a run is shown: in the output area of a cell, as a panel above it, or in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from peft_nb.events import Notice
from peft_nb.system import frontend
from peft_nb.system.display import panel_of
from peft_nb.ui import status, summary
from peft_nb.ui.view import RunView
from peft_nb.ui.wording import spoken

if TYPE_CHECKING:
    from peft_nb.runs.run import Run


class Surface:
    """Where a run is shown."""

    interval_s = 0.2

    def attach(self, run: Run, resume: Callable[[], None]) -> None:
        """Learn which run is shown, and what lets it go on; nothing can be pressed on most surfaces."""

    def running(self, view: RunView, clock_s: float) -> None:
        """Show a run that works."""
        raise NotImplementedError

    def ended(self, view: RunView, metrics: Mapping[str, Any], name: str | None) -> None:
        """Show a run that has ended."""
        raise NotImplementedError

    def broke(self, error: Exception) -> None:
        """Say that something could not be drawn."""
        print(f"Error: {spoken(error)}", file=sys.stderr, flush=True)


class NotebookSurface(Surface):
    """One output area of a cell, updated in place."""

    def __init__(self) -> None:
        self._display_id = uuid4().hex
        self._shown = False

    def running(self, view: RunView, clock_s: float) -> None:
        """Show the panel."""
        self.put(status.html(view, clock_s), status.text(view, clock_s))

    def ended(self, view: RunView, metrics: Mapping[str, Any], name: str | None) -> None:
        """Replace the panel by the summary."""
        self.put(summary.html(view, metrics, name) + status.samples(view), summary.text(view, metrics, name))

    def broke(self, error: Exception) -> None:
        """Say it in place of what was drawn before."""
        said = f"Error: {spoken(error)}"
        self.put(f"<p>{escape(said)}</p>", said)

    def put(self, html: str, text: str) -> None:
        """Show this in place of what was shown before."""
        from IPython.display import publish_display_data

        publish_display_data(
            {"text/html": html, "text/plain": text},
            transient={"display_id": self._display_id},
            update=self._shown,
        )
        self._shown = True


class WidgetSurface(Surface):
    """A panel with a live chart and buttons; in a saved notebook its page stands in its place."""

    def attach(self, run: Run, resume: Callable[[], None]) -> None:
        """Learn what the panel is about."""
        self._run, self._resume = run, resume

    @cached_property
    def _panel(self) -> Any:
        """The panel, made as it is first drawn: an interrupt while its libraries are imported stops the run too."""
        from IPython.display import display

        panel = panel_of(self._run, self._resume)
        display(panel)
        return panel

    def running(self, view: RunView, clock_s: float) -> None:
        """Bring the panel up to date."""
        self._panel.draw(view, clock_s)

    def ended(self, view: RunView, metrics: Mapping[str, Any], name: str | None) -> None:
        """Show in the panel what came of the run."""
        self._panel.draw(view)
        self._panel.sum_up(view, metrics, name)

    def broke(self, error: Exception) -> None:
        """Say it in the panel, if there is one."""
        self._panel.fail(error) if "_panel" in vars(self) else super().broke(error)


class TerminalSurface(Surface):
    """Plain lines: what happens goes to stderr, the summary to stdout."""

    interval_s = 3.0

    def __init__(self) -> None:
        self._said: set[str] = set()

    def running(self, view: RunView, clock_s: float) -> None:
        """Print the notices and the state, each unless it was printed before."""
        for line in (*map(_line, view.notices), status.text(view)):
            if line not in self._said:
                self._said.add(line)
                print(line, file=sys.stderr, flush=True)

    def ended(self, view: RunView, metrics: Mapping[str, Any], name: str | None) -> None:
        """Print the summary."""
        print(summary.text(view, metrics, name), flush=True)


def _line(notice: Notice) -> str:
    said = notice.text + (f"; fix: {notice.fix}" if notice.fix else "")
    return f"warning: {said}" if notice.level == "warning" else said


def surface() -> Surface:
    """Choose where to show runs: a panel where widgets work, an output area in other kernels, else the terminal."""
    kinds: dict[str, type[Surface]] = {"terminal": TerminalSurface, "notebook-headless": NotebookSurface}
    return kinds.get(frontend.frontend(), WidgetSurface)()

"""The panel of a run that gives labels or draws: what it is tried on, and what it makes of that."""

from __future__ import annotations

import time

import ipywidgets

from peft_nb.ui import wording
from peft_nb.ui.panels.panel import LABEL, Panel, Tell, button, row
from peft_nb.ui.trial import Trial


class TrialPanel(Panel):
    """Try a run on one thing after the other, the newest on top.

    Parameters
    ----------
    trial : Trial
        What :func:`peft_nb.chat` returns for a run that gives labels or draws.

    Attributes
    ----------
    input : ipywidgets.Textarea
        What is asked about.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        name, hint = "Text", "Write or paste a text"
        if trial.wants_a_path:
            name, hint = "Image", "Path of an image file"
        elif trial.draws:
            name, hint = "Prompt", "What is to be drawn"
        self.input = ipywidgets.Textarea(
            description=name,
            placeholder=hint,
            rows=3,
            style=LABEL,
            layout={"width": "auto", "flex": "1 1 300px"},
        )
        self._said = ipywidgets.HTML()
        super().__init__("trial", [row(self.input, button("Try it", self.try_it, primary=True)), self._said])
        self._draw()

    def try_it(self) -> None:
        """Try it on what is written."""
        self.in_background("drawing" if self.trial.draws else "classifying", self._ask, self._draw)

    def _ask(self, tell: Tell) -> str:
        began = time.monotonic()
        tried = self.trial.ask(self.input.value)
        said = "drawn" if self.trial.draws else tried.said
        return f"{said}, after {wording.duration(time.monotonic() - began)}"

    def _draw(self) -> None:
        self._said.value = self.trial._repr_html_() if self.trial.tried else ""

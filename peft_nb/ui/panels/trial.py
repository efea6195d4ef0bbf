"""The panel of a classifier to try: a text, and the probabilities of its classes."""

from __future__ import annotations

import time

import ipywidgets

from peft_nb.ui import wording
from peft_nb.ui.panels.panel import LABEL, Panel, Tell, button, row
from peft_nb.ui.trial import Trial


class TrialPanel(Panel):
    """Classify texts one after the other, the newest on top.

    Parameters
    ----------
    trial : Trial
        What :func:`peft_nb.chat` returns for a run that gives labels.

    Attributes
    ----------
    input : ipywidgets.Textarea
        What is asked about.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.input = ipywidgets.Textarea(
            description="Text",
            placeholder="Write or paste a text",
            rows=3,
            style=LABEL,
            layout={"width": "auto", "flex": "1 1 300px"},
        )
        self._said = ipywidgets.HTML()
        super().__init__("trial", [row(self.input, button("Try it", self.try_it, primary=True)), self._said])
        self._draw()

    def try_it(self) -> None:
        """Classify what is written."""
        self.in_background("classifying", self._ask, self._draw)

    def _ask(self, tell: Tell) -> str:
        began = time.monotonic()
        tried = self.trial.ask(self.input.value)
        return f"{tried.said}, after {wording.duration(time.monotonic() - began)}"

    def _draw(self) -> None:
        self._said.value = self.trial._repr_html_() if self.trial.tried else ""

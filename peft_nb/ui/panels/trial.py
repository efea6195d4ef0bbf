"""The panel of a run that gives labels or draws: what it is tried on, and what it makes of that."""

from __future__ import annotations

import time
from typing import Any

import ipywidgets

from peft_nb.data.images.picture import SUFFIXES
from peft_nb.ui import wording
from peft_nb.ui.panels.panel import LABEL, Panel, button, row
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
    file : ipywidgets.FileUpload
        Asks about an image of the user's own machine; shown where images are asked about.
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
        self.file = ipywidgets.FileUpload(accept=",".join(sorted(SUFFIXES)), description="Upload an image")
        self.file.observe(self._upload, "value")
        self._said = ipywidgets.HTML()
        asked = [self.input, button("Try it", self.try_it, primary=True)]
        super().__init__("trial", [row(*asked, *[self.file] * trial.wants_a_path), self._said])
        self._draw()

    def try_it(self) -> None:
        """Try it on what is written."""
        self._try(self.input.value)

    def _try(self, text: str, image: bytes = b"") -> None:
        doing = "drawing" if self.trial.draws else "classifying"
        self.in_background(doing, lambda tell: self._ask(text, image), self._draw)

    def _upload(self, change: Any) -> None:
        if self.file.value:
            chosen = self.file.value[0]
            self._try(chosen["name"], bytes(chosen["content"]))
            self.file.value = ()  # so that the same file can be chosen again, and none is kept

    def _ask(self, text: str, image: bytes) -> str:
        began = time.monotonic()
        tried = self.trial.ask(text, image)
        said = "drawn" if self.trial.draws else tried.said
        return f"{said}, after {wording.duration(time.monotonic() - began)}"

    def _draw(self) -> None:
        self._said.value = self.trial._repr_html_() if self.trial.tried else ""

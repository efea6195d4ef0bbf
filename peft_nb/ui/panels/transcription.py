"""The panel of a run that writes down speech: a microphone and a file to upload, and the transcripts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets

from peft_nb.data.audio.clip import SUFFIXES
from peft_nb.ui import wording
from peft_nb.ui.panels.panel import Panel, Tell, row
from peft_nb.ui.transcription import Transcription


class Microphone(anywidget.AnyWidget):
    """A button that records, and sends the samples as a message: nothing of them is kept in a notebook's file."""

    _esm = Path(__file__).with_name("microphone.js")


class TranscriptionPanel(Panel):
    """Say something or upload a clip; the newest is on top.

    Parameters
    ----------
    transcription : Transcription
        What :func:`peft_nb.chat` returns for a run that writes down speech.

    Attributes
    ----------
    microphone : Microphone
        Records.
    file : ipywidgets.FileUpload
        For clips that are there already, and where there is no microphone.
    """

    def __init__(self, transcription: Transcription) -> None:
        self.transcription = transcription
        self.microphone = Microphone()
        self.microphone.on_msg(self._record)
        self.file = ipywidgets.FileUpload(accept=",".join(sorted(SUFFIXES)), description="Upload a clip")
        self.file.observe(self._upload, "value")
        self._said = ipywidgets.HTML()
        super().__init__("transcription", [row(self.microphone, self.file), self._said])
        self._draw()

    def try_it(self, clip: Any) -> None:
        """Transcribe a clip."""

        def ask(tell: Tell) -> str:
            began = time.monotonic()
            heard = self.transcription.ask(clip)
            return f"{heard.text}, after {wording.duration(time.monotonic() - began)}"

        self.in_background("transcribing", ask, self._draw)

    def _record(self, widget: Any, content: dict[str, Any], buffers: Sequence[Any]) -> None:
        import numpy

        samples = numpy.frombuffer(buffers[0], "<f4")
        self.try_it({"array": samples, "sampling_rate": content["rate"]})

    def _upload(self, change: Any) -> None:
        if self.file.value:
            self.try_it(bytes(self.file.value[0]["content"]))
            self.file.value = ()  # so that the same file can be chosen again, and none is kept

    def _draw(self) -> None:
        self._said.value = self.transcription._repr_html_() if self.transcription.heard else ""

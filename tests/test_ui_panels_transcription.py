from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy

from peft_nb.errors import RunError
from peft_nb.ui.panels.transcription import TranscriptionPanel
from peft_nb.ui.transcription import Heard, Transcription
from tests.test_ui_panels_trial import settled
from tests.widgets import words_of


class Deaf(Transcription):
    """Says how many samples it was given instead of what is said in them."""

    def __init__(self) -> None:
        self.heard = []

    def ask(self, clip: Any) -> Heard:
        if isinstance(clip, bytes):
            raise RunError("a clip holds no sound; replace it")
        self.heard.append(Heard("", f"<b>{len(clip['array'])} at {clip['sampling_rate']}", "base", 1.0))
        return self.heard[-1]


def test_what_the_microphone_sends_and_what_is_uploaded_is_transcribed() -> None:
    panel = TranscriptionPanel(Deaf())
    sound = memoryview(numpy.zeros(800, "<f4").tobytes())
    panel.microphone._handle_custom_msg({"rate": 16_000}, [sound])
    assert "&lt;b&gt;800 at 16000, after" in settled(panel)  # type: ignore[arg-type]
    assert "&lt;b&gt;800 at 16000" in words_of(panel.box).replace("</ins>", "").partition("</section>")[0]
    told = {"name": "a.wav", "type": "audio/wav", "size": 4, "last_modified": datetime.now(UTC)}
    panel.file.value = [{**told, "content": memoryview(b"RIFF")}]
    assert "a clip holds no sound; replace it" in settled(panel)  # type: ignore[arg-type]
    assert panel.file.value == ()
    assert "sound" not in panel.microphone.get_state()

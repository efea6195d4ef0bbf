"""A run on clips beside its base, asked about one after the other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import peft_nb
from peft_nb.errors import RunError
from peft_nb.runs.run import Run
from peft_nb.tasks import TASKS
from peft_nb.ui.transcription import Heard, Transcription, html, listener
from tests import speech as clips
from tests.test_runs_compare import HOSTILE, Page


def test_a_clip_is_written_down_by_the_run_and_its_base(listener: Run, tmp_path: Path) -> None:
    talk = peft_nb.chat(listener)
    assert isinstance(talk, Transcription)
    sound = {"array": clips.sound("low high"), "sampling_rate": clips.RATE}
    heard = talk.ask(sound)
    assert heard.text == listener.predict(sound).text[0]
    with listener.model.disable_adapter():
        assert heard.base == listener.predict(sound).text[0] != heard.text
    assert heard.seconds == 0.5
    file = clips.write(tmp_path / "one.wav", clips.sound("low high"))
    assert talk.ask(file.read_bytes()).text == heard.text
    assert repr(talk).count(f"  run:  {heard.text}") == 2
    page = Page(talk._repr_html_())
    assert [tag for tag, _ in page.elements].count("audio") == 2
    with pytest.raises(RunError, match=r"^a clip there is no file 'none.wav'; correct the path"):
        talk.ask("none.wav")
    assert len(talk.heard) == 2


def test_only_one_run_that_takes_clips_is_heard() -> None:
    def run(task: str) -> Any:
        return SimpleNamespace(adapter=SimpleNamespace(task=TASKS[task]))

    hears = run("speech-recognition")
    assert listener({"a": hears}) is hears
    assert listener({"a": run("classification")}) is listener({"a": hears, "b": hears}) is None


def test_foreign_text_is_text() -> None:
    page = Page(html(Heard(f"data:audio/wav;base64,{HOSTILE}", HOSTILE, "b", 1.0)))
    assert page.open == []
    assert {tag for tag, _ in page.elements} == {"section", "div", "span", "ins"}

"""What is measured of a speech model is told of the clips where it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from peft_nb.evaluation.speech import SpeechEvaluator
from peft_nb.evaluation.transcribe import errors, normalised
from peft_nb.events import Transcribed
from peft_nb.runs.run import Run
from peft_nb.spec import RunSpec
from tests import speech as clips


def test_parts_are_those_of_speech() -> None:
    assert SpeechEvaluator.parts(RunSpec(data="x")) == ["tokens", "forgetting", "answers"]
    assert SpeechEvaluator.parts(RunSpec(data="x", judge="off", accept={"word_error_rate": "< 0.5"})) == ["answers"]


@pytest.mark.parametrize(
    ("name", "by"), [("word_error_rate", "words"), ("character_error_rate", "characters"), ("raw_word_error_rate", "")]
)
def test_rates_are_those_of_the_transcripts_with_intervals_and_of_the_base(name: str, by: str, listener: Run) -> None:
    metrics, rows = listener.metrics, listener.judgement["answers"]["rows"]
    low, high = metrics[f"{name}_interval"]
    assert low <= metrics[name] <= high
    change = normalised if by else str.strip
    for key, prefix in (("answer", ""), ("base_answer", "base_")):
        texts = ([change(row[one]) for row in rows] for one in ("reference", key))
        assert metrics[f"{prefix}{name}"] == pytest.approx(errors(*texts, by or "words").rate)
    assert {row["reference"] for row in rows} <= {row["text"] for row in clips.rows(48)}


def test_the_worst_clips_can_be_heard(listener: Run) -> None:
    told = [event for event in listener.events() if isinstance(event, Transcribed)]
    assert 0 < len(told) <= 8
    assert told[0].error_rate == max(one.error_rate for one in told)
    assert all(one.audio.startswith("data:audio/") for one in told)
    rows = listener.judgement["answers"]["rows"]
    assert {one.reference for one in told} <= {row["reference"] for row in rows}


def test_what_is_lost_of_other_clips_is_measured(train_speech: Callable[..., Run], tmp_path: Path) -> None:
    run = train_speech(max_steps=3, regression=str(clips.folder(tmp_path / "others", 5)))
    assert run.metrics["forgetting"] == pytest.approx(
        run.metrics["regression_loss"] - run.metrics["base_regression_loss"], abs=1e-6
    )
    assert run.metrics["forgetting"] != 0
    assert {"regression_word_error_rate", "base_regression_word_error_rate"} <= run.metrics.keys()
    without = train_speech(max_steps=2)
    assert without.judgement["missing"]["forgetting"].startswith("there are no clips of another domain; name some")

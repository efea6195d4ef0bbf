"""What is heard of clips, and which are the same."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from peft_nb.data.audio.clip import Clip, clip
from peft_nb.data.audio.hearing import groups, look, looked
from tests import speech


def test_silence_and_overdriven_sound_are_heard() -> None:
    tone = speech.sound("low mid", seconds=1)
    found = looked(tone)
    assert (found.seconds, found.silent, found.overdriven) == (2, False, False)
    assert found.spoken == pytest.approx(2, abs=0.2)
    assert looked(tone * 1e-4).silent
    assert looked(numpy.clip(tone * 9, -1, 1)).overdriven
    pause = numpy.concatenate([tone, numpy.zeros(32_000, "float32")])
    assert looked(pause).spoken == pytest.approx(2, abs=0.2)


def test_one_recording_in_two_formats_is_near_and_others_are_not(tmp_path: Path) -> None:
    rows = speech.rows(12)
    clips = [clip(row["audio"]) for row in rows]
    louder = {"array": rows[3]["audio"]["array"] * 0.5, "sampling_rate": 16_000}
    again = [
        clip(rows[3]["audio"]),
        clip(str(speech.write(tmp_path / "a.ogg", rows[3]["audio"]["array"]))),
        clip(louder),
    ]
    found = groups([*clips, *again, Clip("none.wav")])
    assert found[12:] == [3, 3, 3, 15]
    different = {row["text"]: place for place, row in reversed([*enumerate(rows)])}
    assert all(rows[of]["text"] == row["text"] for of, row in zip(found, rows, strict=False)), different
    assert look(clips[0]).exact == looked(clips[0].open()).exact

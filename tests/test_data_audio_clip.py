"""Clips in any container, decoded to 16 kHz mono."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest

from peft_nb.data import RowProblem
from peft_nb.data.audio.clip import Clip, at_rate, clip, is_clip
from tests import speech

TONE = speech.sound("mid", rate=16_000, seconds=0.5)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_a_file_of_any_kind_and_rate_sounds_the_same(suffix: str, rate: int, tmp_path: Path) -> None:
    tone = speech.sound("mid", rate=rate, seconds=0.5)
    file = speech.write(tmp_path / f"a{suffix}", numpy.stack([tone, tone], 1), rate)
    found = clip(str(file)).open()
    assert found.dtype == "float32"
    assert abs(len(found) - 8_000) <= 2_400  # mp3 pads
    spectrum = numpy.abs(numpy.fft.rfft(found[1_000:7_000]))
    assert spectrum.argmax() * 16_000 / 6_000 == pytest.approx(440, abs=3)
    assert numpy.abs(found).max() == pytest.approx(numpy.abs(TONE).max(), rel=0.25)
    assert is_clip(str(file))
    assert is_clip(file.read_bytes())
    assert clip(file.read_bytes()).open() == pytest.approx(found)


@pytest.mark.parametrize(
    "cell",
    [
        {"array": TONE, "sampling_rate": 16_000},
        {"array": TONE.tolist(), "sampling_rate": 16_000.0},
        {"array": (TONE * 32768).astype("int16"), "sampling_rate": 16_000},
        {"array": numpy.stack([TONE, TONE]), "sampling_rate": 16_000},
        {"array": ((TONE + 1) * 128).astype("uint8"), "sampling_rate": 16_000},
    ],
)
def test_arrays_of_any_kind_hold_the_same(cell: dict[str, Any]) -> None:
    assert is_clip(cell)
    assert clip(cell).open() == pytest.approx(TONE, abs=0.01)


def test_a_clip_is_known_by_what_it_holds(tmp_path: Path) -> None:
    one, other = (clip({"array": array, "sampling_rate": 16_000}) for array in (TONE, TONE.copy()))
    assert one == other
    assert one != clip({"array": TONE, "sampling_rate": 8_000})
    file = speech.write(tmp_path / "a.wav", TONE)
    before = clip(str(file))
    assert before == clip({"path": str(file)})
    state = before.state
    speech.write(file, TONE[:4_000])
    assert before.state != state


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("none.wav", "there is no file 'none.wav'; correct the path, or drop the row"),
        (b"hello", "cannot be read: Format not recognised.; replace it or drop the row"),
        (3, "holds a int, not sound; give paths, dicts of array and sampling_rate"),
        ({"array": TONE}, "holds an array with the sampling rate None; give it"),
        ({"array": numpy.zeros((90, 90)), "sampling_rate": 16_000}, "holds an array of 90 × 90; give it the shape"),
        ({"array": TONE[:0], "sampling_rate": 16_000}, "holds no sound"),
    ],
)
def test_what_is_no_sound_is_refused_in_one_line(cell: Any, said: str) -> None:
    with pytest.raises(RowProblem) as caught:
        clip(cell).open()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bare_array_needs_a_rate() -> None:
    with pytest.raises(RowProblem, match="nothing says how many samples a second; add a column sampling_rate"):
        at_rate(clip(TONE), None)
    assert at_rate(clip(TONE), 16_000).open() == pytest.approx(TONE)
    assert at_rate(Clip("a.wav"), 8_000) == Clip("a.wav")
    assert not is_clip("a picture.png")
    assert not is_clip("hello")

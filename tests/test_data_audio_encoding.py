"""Clips and texts as examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest

from peft_nb.data import RowProblem
from peft_nb.data.audio.clip import clip
from peft_nb.data.audio.encoding import Reader, cached, encode, features, prompt_of, seconds, sound
from peft_nb.data.detection import detect
from peft_nb.errors import DataError
from tests import speech


@pytest.fixture(scope="module")
def reader(speech: Path) -> Reader:
    from transformers import AutoTokenizer, WhisperFeatureExtractor

    tokenizer = AutoTokenizer.from_pretrained(speech)
    start = tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
    return Reader(WhisperFeatureExtractor.from_pretrained(speech), tokenizer, start, "en", 32)


@pytest.mark.parametrize("length", [0.01, 0.25, 2.0])
def test_features_come_back_to_the_last_bit(length: float, reader: Reader) -> None:
    for samples in (speech.sound("low", seconds=length), numpy.zeros(round(16_000 * length), "float32")):
        wanted = reader.extractor(samples, sampling_rate=16_000, return_tensors="np")["input_features"][0]
        signal = reader.features(samples)
        numpy.testing.assert_array_equal(features(signal), wanted)
        assert len(signal) < 4 * 16 * (100 * length + 5) + 8_000 * (length + 1)
        again = clip(sound(signal)).open()
        assert numpy.abs(again).max() == pytest.approx(numpy.abs(samples).max(), abs=0.2)


def test_the_length_of_a_clip_is_that_of_its_sound(reader: Reader) -> None:
    samples = speech.sound("low", seconds=1.0)
    assert seconds(reader.features(samples)) == pytest.approx(1.0, abs=0.05)
    quiet = numpy.concatenate([samples, numpy.zeros(8_000, "float32")])
    assert seconds(reader.features(quiet)) == pytest.approx(1.0, abs=0.05)


def test_a_text_is_learned_after_its_prompt_to_its_end(reader: Reader) -> None:
    made = reader.example(speech.sound("low"), " low mid ", "de-DE", 7)
    words = reader.tokenizer.convert_ids_to_tokens(list(made.ids))
    assert words[:4] == ["<|startoftranscript|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>"]
    assert (list(made.supervised), words[-1]) == ([0] * 4 + [1] * (len(words) - 4), "<|endoftext|>")
    assert reader.tokenizer.decode(list(made.ids[4:-1])) == " low mid"
    assert list(prompt_of(made)) == list(made.ids[:4]) == reader.prompt("de")
    assert made.cost == len(words) + 7
    assert list(prompt_of(reader.example(speech.sound("low"), None, "", 7))) == reader.prompt()
    with pytest.raises(RowProblem, match="says the language 'xx', which the model has no token for"):
        reader.prompt("xx")


def test_rows_become_examples_once_and_long_ones_are_counted(reader: Reader, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = speech.rows(4)
    rows += [{"audio": {"array": speech.sound("low", seconds=2.5), "sampling_rate": 16_000}, "text": "low"}]
    rows += [{**rows[0], "text": "low " * 40}]
    layout = detect(rows)
    found = encode(rows, layout, reader, units=3)
    assert found.examples.rows.tolist() == [0, 1, 2, 3]
    assert found.report.long == (4, 5)
    assert "4 clips" not in str(found.report)
    assert "6 clips" in str(found.report)
    assert "2 clips over 2 seconds dropped" in str(found.report)
    name, kept = cached(tmp_path, "f", rows, layout, reader, units=3)
    again, same = cached(tmp_path, "f", rows, layout, reader, units=3)
    assert name == again
    assert list(kept.examples) == list(same.examples) == list(found.examples)
    with pytest.raises(DataError, match=r"1 of 2 rows cannot be used .*there is no file 'none.wav'"):
        encode([*rows[:1], {"audio": "none.wav", "text": "a"}], layout, reader, units=3)
    with pytest.raises(DataError, match=r"is longer than 2 s; cut each into clips with their own texts"):
        encode(rows[4:5], layout, reader, units=3)

"""The built-in spoken names are clips with texts, said by other voices for the evaluation."""

from __future__ import annotations

import sys

import pytest

from peft_nb.data import sources, spoken_names
from peft_nb.data.detection import detect
from peft_nb.errors import DataError


def test_names_are_said_by_several_voices() -> None:
    found = spoken_names.load(10)
    train, held = found["train"], found["eval"]
    assert (len(train), len(held)) == (20, 5)
    assert spoken_names.load(10) is found
    layout = detect(train)
    assert layout.kind == "audio"
    clip, text, _ = layout.spoken(train[0])
    assert 1 < len(clip.open()) / 16_000 < 6
    assert not {row["text"] for row in train} & {row["text"] for row in held}
    names = spoken_names.invented(200)
    assert len({*names}) == 200
    assert any(name in text for name in spoken_names.invented(10))


def test_what_is_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    spoken_names.load.cache_clear()
    with pytest.raises(DataError, match="which is not installed; run: pip install espeakng-loader"):
        sources.read("spoken-names")

"""The built-in digits are images with labels, some of them held out."""

from __future__ import annotations

from collections import Counter

from peft_nb.data import sources
from peft_nb.data.detection import detect


def test_all_digits_are_there_on_both_sides() -> None:
    source = sources.read("digits")
    assert source.origin == "built-in digits, 1,497 rows and 300 for evaluation (split 'eval')"
    layout = detect(source.train)
    assert layout.kind == "image"
    assert layout.text(source.train[0]).open().size == (32, 32)  # type: ignore[attr-defined]
    counts = Counter(row["label"] for row in source.eval or ())
    assert sorted(counts) == list("0123456789")
    assert min(counts.values()) > 20

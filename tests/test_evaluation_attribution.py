"""Weights of parts, on functions whose weights are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import pytest

pytest.importorskip("captum")

from PIL import Image

from peft_nb.evaluation import attribution
from peft_nb.evaluation.attribution import Cells, Mask, Words, attribute


class Counted:
    """Two outputs: a sum, and a product that both of two parts have to be there for."""

    def __init__(self) -> None:
        self.asked: list[Mask] = []

    def __call__(self, masks: Sequence[Mask]) -> numpy.ndarray:
        self.asked += masks
        return numpy.array([[2.0 * a - b, 4.0 * (a and c)] for a, b, c in masks])


def test_what_is_left_out_is_missed_by_what_it_adds() -> None:
    score = Counted()
    weights, ends = attribute(score, 3)
    assert weights.tolist() == [[2, -1, 0], [4, 0, 4]]
    assert ends.tolist() == [[1, 4], [0, 0]]
    assert len(score.asked) == len({*score.asked}) == 5


def test_shapley_values_share_what_parts_do_together_and_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution, "SAMPLES", 200)
    score = Counted()
    weights, ends = attribute(score, 3, by="shapley", seed=1)
    assert weights[0].tolist() == [2, -1, 0]
    assert weights[1] == pytest.approx([2, 0, 2], abs=0.4)
    assert weights.sum(1) == pytest.approx(ends[0] - ends[1])
    assert len(score.asked) == len({*score.asked}) <= 8
    assert (attribute(score, 3, by="shapley", seed=1)[0] == weights).all()


def test_words_keep_what_parts_them_and_long_texts_are_grouped() -> None:
    words = Words("  Where is\nmy parcel? ")
    assert words.names == ("Where ", "is\n", "my ", "parcel?")
    assert words.keep((True, False, True, True)) == "Where my parcel?"
    assert words.keep((False,) * 4) == ""
    assert not words.grouped
    assert Words("").names == ()
    long = Words(" ".join(map(str, range(100))), most=7)
    assert long.grouped
    assert len(long.names) == 7
    assert "".join(long.names) == " ".join(map(str, range(100)))


def test_a_cell_that_is_left_out_has_the_mean_colour() -> None:
    image = Image.new("RGB", (9, 6), "black")
    image.paste((90, 90, 90), (0, 0, 3, 2))
    cells = Cells(image, side=3)
    assert cells.names[0] == "row 1, column 1"
    assert [cells.boxes[0], cells.boxes[5]] == [(0, 0, 3, 2), (6, 2, 9, 4)]
    found = cells.keep((False, *(True,) * 8))
    assert found.getpixel((1, 1)) == (10, 10, 10)
    assert found.getpixel((8, 5)) == (0, 0, 0)
    assert image.getpixel((1, 1)) == (90, 90, 90)

from __future__ import annotations

from dataclasses import dataclass

import numpy
import pytest

from peft_nb.data import RowProblem, media


@dataclass(frozen=True)
class Number:
    """A medium of one number, which is its look too; a negative one cannot be read."""

    value: float

    @property
    def state(self) -> str:
        return str(self.value)

    exact = state


def read(one: Number) -> Number:
    if one.value < 0:
        raise RowProblem("is negative", "take another")
    return one


def compared(looks: list[Number]) -> media.Compare:
    values = numpy.array([one.value for one in looks])
    return lambda some, others: abs(values[some, None] - values[others]) <= 1


def test_a_medium_is_looked_at_once_also_where_it_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    look = media.Looks[Number, Number](lambda one: asked.append(one.value) or read(one))  # type: ignore[func-returns-value]
    for _ in range(2):
        assert look(Number(1.0)) == Number(1.0)
        with pytest.raises(RowProblem, match="is negative"):
            look(Number(-1.0))
    assert asked == [1.0, -1.0]
    monkeypatch.setattr(media, "REMEMBERED", 2)
    look(Number(2.0))
    look(Number(1.0))
    assert asked == [1.0, -1.0, 2.0, 1.0]


@pytest.mark.parametrize("block", [2, 1024])
def test_exact_and_near_duplicates_are_one_group(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(media, "BLOCK", block)
    told: list[float] = []
    numbers = [Number(value) for value in (10.0, 20.0, -1.0, 10.0, 20.5, 11.0, -1.0, 30.0)]
    looks = media.looks_of(numbers, read, "comparing", lambda share, text: told.append(share))
    assert told[-1] == 1
    assert media.grouped(looks, compared) == [0, 1, 2, 0, 1, 0, 6, 7]
    assert media.grouped([None, None], compared) == [0, 1]
    monkeypatch.setattr(media, "NEAR_ROWS", 2)
    assert media.grouped(looks, compared) == [0, 1, 2, 0, 4, 5, 6, 7]

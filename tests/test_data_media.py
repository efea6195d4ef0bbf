from __future__ import annotations

from dataclasses import dataclass

import numpy
import pytest

from peft_nb.data import RowProblem, media
from peft_nb.errors import DataError


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


def test_rows_that_cannot_be_used_are_refused_together_when_all_are_through() -> None:
    rows, told = [{"value": value} for value in (1, -1, 0, 2, -2)], list[float]()

    def make(number: int, row: dict[str, float]) -> tuple[int, float] | None:
        return (number, row["value"]) if read(Number(row["value"])).value else None

    made = list[tuple[int, tuple[int, float]]]()
    with pytest.raises(DataError, match=r"^2 of 5 clips cannot be used .*: clip 1: is negative; clip 4: is negative;"):
        made.extend(media.made_of(rows, make, "reading", "clip", lambda done, doing: told.append(done)))
    assert list(media.made_of(rows[2:4], make, "reading", "clip", None)) == [(1, (1, 2))]
    assert told == [0.2, 0.4, 0.6, 0.8, 1]


def test_a_table_has_another_state_once_a_medium_changes() -> None:
    def state(*values: float) -> str:
        return media.state([{"value": value} for value in values], lambda row: read(Number(row["value"])))

    assert state(1, -1, 2) == state(1, 2) != state(1, 3)

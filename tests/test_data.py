"""Rows of a table, and the refusal of those that cannot be used."""

from __future__ import annotations

import numpy
import pandas
import pytest

from peft_nb.data import BLOCK, RowProblem, Rows, plain, refusal


def squares(length: int, fetched: list[tuple[int, int]]) -> Rows:
    def fetch(start: int, stop: int) -> list[tuple[int, int]]:
        fetched.append((start, stop))
        return [(n, n * n) for n in range(start, stop)]

    return Rows(["n", "square"], length, fetch)


def test_rows_are_fetched_in_blocks_when_they_are_read() -> None:
    fetched: list[tuple[int, int]] = []
    rows = squares(BLOCK + 3, fetched)
    assert (len(rows), fetched) == (BLOCK + 3, [])
    assert list(rows) == [{"n": n, "square": n * n} for n in range(BLOCK + 3)]
    assert fetched == [(0, BLOCK), (BLOCK, BLOCK + 3)]


def test_columns_may_be_converted_in_ways_of_their_own() -> None:
    rows = Rows(["a", "b"], 1, lambda start, stop: [(2.0, (2.0,))], {"a": int}, note="a pair", doubt="no pair")
    assert list(rows) == [{"a": 2, "b": [2.0]}]
    assert (rows.note, rows.doubt) == ("a pair", "no pair")


def test_rows_and_slices_are_found_wherever_they_are() -> None:
    fetched: list[tuple[int, int]] = []
    rows = squares(10, fetched)
    assert rows[-1] == {"n": 9, "square": 81}
    assert [row["n"] for row in rows[3:7]] == [3, 4, 5, 6]
    assert fetched == [(9, 10), (3, 7)]
    assert [row["n"] for row in rows[8:2:-3]] == [8, 5]
    assert rows[4:4] == []
    with pytest.raises(IndexError):
        rows[10]


def test_a_cell_is_what_json_could_hold() -> None:
    cells = [numpy.int64(3), numpy.array([1, 2]), float("nan"), pandas.NA, pandas.NaT, "nan", None, 0.5]
    assert list(map(plain, cells)) == [3, [1, 2], None, None, None, "nan", None, 0.5]


def test_a_refusal_counts_all_rows_and_names_five() -> None:
    problems = {number: RowProblem("column 'a' is empty") for number in range(9, 0, -1)}
    message = str(refusal(problems, 1200))
    assert message.startswith("9 of 1,200 rows cannot be used (counting from 0): row 1: column 'a' is empty; row 2:")
    assert "row 5" in message
    assert "row 6" not in message
    assert message.endswith("and 4 more; fill it or drop the row")
    assert str(refusal({0: RowProblem("is odd", "fix it")}, 1, "evaluation row")) == (
        "1 of 1 evaluation row cannot be used (counting from 0): evaluation row 0: is odd; fix it"
    )

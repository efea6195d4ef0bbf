"""From the user's data to token ids: read it (sources), recognise it (detection, layouts), encode it (encoding)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

from peft_nb.data.cells import plain as plain
from peft_nb.errors import DataError

BLOCK = 1024  # rows fetched at a time while iterating
SHOWN = 5  # rows named in a refusal
LOOKED = 100  # rows looked at to tell what a table holds: half of them the first, half spread over it


class Rows(Sequence[dict[str, Any]]):
    """Rows of a table; every row has all columns, and a cell is what JSON could hold: None where it is missing.

    Parameters
    ----------
    columns : sequence of str
        Names of the columns.
    length : int
        Number of rows.
    fetch : callable
        ``fetch(start, stop)`` gives the cells of those rows, one sequence a row, in the order of `columns`.
    converters : mapping of str to callable, optional
        What turns a cell of a column into what JSON could hold, where that is not :func:`plain`.
    note : str, default ""
        What a row is, in words, where the user has to be told.
    doubt : str, default ""
        The refusal of the rows if no layout fits them: what they may be instead, and how to fix it.
    """

    def __init__(
        self,
        columns: Sequence[str],
        length: int,
        fetch: Callable[[int, int], Iterable[Sequence[Any]]],
        converters: Mapping[str, Callable[[Any], Any]] | None = None,
        *,
        note: str = "",
        doubt: str = "",
    ) -> None:
        self.columns = tuple(columns)
        self.note, self.doubt = note, doubt
        self._length = length
        self._fetch = fetch
        self._converters = [(converters or {}).get(column, plain) for column in self.columns]

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, self._length, BLOCK):
            yield from self._read(start, min(start + BLOCK, self._length))

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        places = range(self._length)[index]
        if isinstance(places, int):
            return next(self._read(places, places + 1))
        return list(self._read(places[0], places[-1] + 1)) if places and places.step == 1 else [self[i] for i in places]

    def _read(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        for cells in self._fetch(start, stop):
            converted = [convert(cell) for convert, cell in zip(self._converters, cells, strict=True)]
            yield dict(zip(self.columns, converted, strict=True))


def columns_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Name the columns of a table."""
    return rows.columns if isinstance(rows, Rows) else tuple(dict.fromkeys(key for row in rows for key in row))


def looked_at(rows: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """Give some rows by their numbers: the first, since a stride could skip every other one, and some of all."""
    half, total = LOOKED // 2, len(rows)
    places = {*range(min(total, half)), *(total * part // half for part in range(half)), total - 1}
    return {place: rows[place] for place in sorted(places) if 0 <= place < total}


class RowProblem(DataError):
    """One row cannot be used; the caller knows its number."""

    def __init__(self, reason: str, fix: str = "fill it or drop the row") -> None:
        self.reason = reason
        self.fix = fix
        super().__init__(f"{reason}; {fix}")


def refusal(problems: Mapping[int, RowProblem], total: int, row_name: str = "row") -> DataError:
    """Say in one line which rows cannot be used and why.

    Parameters
    ----------
    problems : mapping of int to RowProblem
        What is wrong, by row number.
    total : int
        Number of rows looked at.
    row_name : str, default "row"
        What a row is called, such as ``evaluation row``.

    Returns
    -------
    DataError
        To be raised: the count, the first five rows and the fix.
    """
    shown = sorted(problems.items())[:SHOWN]
    reasons = [f"{row_name} {number}: {problem.reason}" for number, problem in shown]
    more = [f"and {len(problems) - SHOWN:,} more"] if len(problems) > SHOWN else []
    fixes = dict.fromkeys(problem.fix for _, problem in shown)
    count = f"{len(problems):,} of {total:,} {row_name}{'s' if total > 1 else ''}"
    return DataError(f"{count} cannot be used (counting from 0): {'; '.join([*reasons, *more, *fixes])}")

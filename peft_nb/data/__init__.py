"""From the user's data to token ids: read it (sources), recognise it (detection, layouts), encode it (encoding)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

from peft_nb.errors import DataError

BLOCK = 1024  # rows fetched at a time while iterating
SHOWN = 5  # rows named in a refusal


class Rows(Sequence[dict[str, Any]]):
    """Rows of a table; every row has all columns, and a missing cell (NaN, NaT, NA) is None.

    Parameters
    ----------
    columns : sequence of str
        Names of the columns.
    length : int
        Number of rows.
    fetch : callable
        ``fetch(start, stop)`` gives the cells of those rows, one sequence a row, in the order of `columns`.
    """

    def __init__(
        self, columns: Sequence[str], length: int, fetch: Callable[[int, int], Iterable[Sequence[Any]]]
    ) -> None:
        self.columns = tuple(columns)
        self._length = length
        self._fetch = fetch

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
            yield dict(zip(self.columns, map(plain, cells), strict=True))


def plain(cell: Any) -> Any:
    """Turn one cell into what JSON could hold.

    Parameters
    ----------
    cell : object
        A value as a data frame or data set gives it.

    Returns
    -------
    object
        None for NaN, NaT and NA; Python's own numbers and lists for numpy's; anything else unchanged.
    """
    if isinstance(cell, str):
        return cell
    if (isinstance(cell, float) and cell != cell) or type(cell).__name__ in ("NAType", "NaTType"):
        return None
    return cell.tolist() if hasattr(cell, "tolist") else cell


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
        What a row is called, such as ``held-out row``.

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

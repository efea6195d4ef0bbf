"""Images and clips of a table: each opened once, and grouped where they are the same or nearly."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from peft_nb.data import RowProblem, refusal
from peft_nb.events import Progress

if TYPE_CHECKING:
    import numpy

NEAR_ROWS = 20_000  # above this only exact duplicates are looked for: pairs grow with the square
REMEMBERED = 50_000  # of a kind
BLOCK = 1024


class Medium(Protocol):
    """An image or a clip, with what changes when its file does."""

    @property
    def state(self) -> str:
        """Tells it from others."""


class Look(Protocol):
    """What was seen or heard of one, with a hash of all of it."""

    @property
    def exact(self) -> str:
        """The same for exact duplicates alone."""


E = TypeVar("E")
M = TypeVar("M", bound=Medium)
L = TypeVar("L", bound=Look)
Table = Sequence[Mapping[str, Any]]
Compare = Callable[[slice, slice], "numpy.ndarray"]
"""Gives for some of the looks, and for others, which are near-duplicates; shape ``(some, others)``."""


def made_of(
    rows: Table, make: Callable[[int, Any], E | None], doing: str, row_name: str, progress: Progress | None
) -> Iterator[tuple[int, E]]:
    """Make something of each row in turn.

    Parameters
    ----------
    rows : sequence of mapping
        The table.
    make : callable
        Takes the number of a row and the row; gives None where nothing is to be made of it.
    doing : str
        What is being done, for `progress`.
    row_name : str
        What errors call a row.
    progress : callable, optional
        Called with the share that is done (0 to 1) and `doing`.

    Yields
    ------
    tuple of int and what `make` gives
        Of the rows of which something is made.

    Raises
    ------
    DataError
        Once all rows are through: `make` raised RowProblem for some, which are counted, the first five named.
    """
    problems: dict[int, RowProblem] = {}
    for number, row in enumerate(rows):
        try:
            if (made := make(number, row)) is not None:
                yield number, made
        except RowProblem as problem:
            problems[number] = problem
        if progress:
            progress((number + 1) / len(rows), doing)
    if problems:
        raise refusal(problems, len(rows), row_name)


def state(rows: Table, medium: Callable[[Any], Medium]) -> str:
    """Hash what tells whether the media of a table have changed; rows without one count for nothing."""
    digest = hashlib.sha256()
    for row in rows:
        with suppress(RowProblem):
            digest.update(medium(row).state.encode())
    return digest.hexdigest()


class Looks(Generic[M, L]):
    """Looks at a medium once as long as it does not change; RowProblem where it cannot be read.

    Parameters
    ----------
    look : callable
        Looks at it.
    """

    def __init__(self, look: Callable[[M], L]) -> None:
        self._look = look
        self._known: OrderedDict[str, L | RowProblem] = OrderedDict()

    def __call__(self, one: M) -> L:
        """Look at it, or remember what was found."""
        state = one.state
        if state not in self._known:
            try:
                self._known[state] = self._look(one)
            except RowProblem as problem:
                self._known[state] = problem
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        found = self._known[state]
        if isinstance(found, RowProblem):
            raise RowProblem(found.reason, found.fix)
        return found


def looks_of(media: Sequence[M], look: Callable[[M], L], doing: str, progress: Progress | None) -> list[L | None]:
    """Look at media, and say how far that is; None for one that cannot be read."""
    found: list[L | None] = []
    for number, one in enumerate(media):
        try:
            found.append(look(one))
        except RowProblem:
            found.append(None)
        if progress:
            progress((number + 1) / len(media), doing)
    return found


def grouped(looks: Sequence[L | None], compared: Callable[[Sequence[L]], Compare]) -> list[int]:
    """Group media that are exact or near-duplicates of each other.

    Parameters
    ----------
    looks : sequence of Look or None
        One a row. Above `NEAR_ROWS` only exact duplicates are found. What could not be read is alone.
    compared : callable
        Takes looks, and gives what compares some of them with others.

    Returns
    -------
    list of int
        For each the number of the first of its group; one alone has its own number.
    """
    first: dict[object, int] = {}
    leader = [first.setdefault(one.exact if one else number, number) for number, one in enumerate(looks)]
    distinct = [number for number in first.values() if looks[number]]
    if len(distinct) > NEAR_ROWS or not distinct:
        return leader
    near = _near(len(distinct), compared([one for number in distinct if (one := looks[number])]))
    own = dict(zip(distinct, (distinct[place] for place in near), strict=True))
    return [own.get(number, number) for number in leader]


def _near(count: int, compare: Compare) -> list[int]:
    """For each the place of the first that it is a near-duplicate of, or its own."""
    found = list(range(count))
    for start in range(0, count, BLOCK):
        stop = min(count, start + BLOCK)
        for row, column in zip(*compare(slice(start, stop), slice(stop)).nonzero(), strict=True):
            place, other = start + int(row), int(column)
            if other < place and found[place] == place:
                found[place] = found[other]
    return found

"""Rows set aside for evaluation: whole groups of near-duplicates, so that none of them was trained on."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, overload

from peft_nb.data import Rows
from peft_nb.data.conversations import asked
from peft_nb.data.layouts import Layout
from peft_nb.events import Progress


def split(
    texts: Sequence[Any],
    fraction: float,
    seed: int,
    labels: Sequence[Hashable] | None = None,
    progress: Progress | None = None,
    similar: Callable[..., Sequence[int]] | None = None,
) -> tuple[list[int], list[int]]:
    """Set rows aside for evaluation, the same ones on any machine.

    Rows whose texts are equal or nearly so (:func:`.quality.duplicates.groups`) stay on one side. Groups are
    taken in random order as long as they fit into the share asked for; one more follows where that comes closer.

    Parameters
    ----------
    texts : sequence of str
        What each row says, or whatever `similar` compares.
    fraction : float
        Share to set aside, 0 to 1; above 0 at least one row, and at least one is left for training.
    seed : int
        Equal seeds choose equal rows.
    labels : sequence of hashable, optional
        Class of each row; each class is then set aside in its share of the rows (largest remainders), and the
        last row of a class is left for training. A group counts for its commonest class.
    progress : callable, optional
        Called with the share that is done (0 to 1) and what is being done.
    similar : callable, optional
        Gives each row the number of its group, as :func:`.quality.duplicates.groups` does, which is the default.

    Returns
    -------
    tuple of list of int and list of int
        Ascending row numbers for training and for evaluation. Where all rows are nearly the same, none can be
        set aside.
    """
    import numpy

    from peft_nb.data.quality.duplicates import groups

    total = len(texts)
    wanted = min(max(1, round(total * fraction)), total - 1) if fraction > 0 and total > 1 else 0
    if not wanted:
        return list(range(total)), []
    found = (similar or groups)(texts, progress=progress)
    _, first, group = numpy.unique(found, return_index=True, return_inverse=True)
    group = first.argsort().argsort()[group]  # numbered as they appear
    sizes = numpy.bincount(group)
    kinds = _commonest(group, labels) if labels else numpy.zeros_like(sizes)
    # random() alone is promised to be the same in every version of Python; shuffle() and sample() are not.
    generator = random.Random(seed)
    keys = numpy.fromiter((generator.random() for _ in sizes), float, len(sizes))
    held = numpy.zeros(len(sizes), bool)
    rooms = _quotas([int(sizes[kinds == kind].sum()) for kind in range(kinds.max() + 1)], wanted)
    for place in keys.argsort(kind="stable").tolist():
        if sizes[place] <= rooms[kinds[place]]:
            held[place] = True
            rooms[kinds[place]] -= int(sizes[place])
    for kind, room in enumerate(rooms):
        left = numpy.flatnonzero(~held & (kinds == kind))
        extra = left[sizes[left].argmin()]
        held[extra] = len(left) > 1 and abs(room - sizes[extra]) < room
    if not held.any() and len(sizes) > 1:  # every group is more than twice as large as what is wanted
        held[sizes.argmin()] = True
    aside = held[group]
    return numpy.flatnonzero(~aside).tolist(), numpy.flatnonzero(aside).tolist()


def _commonest(group: Any, labels: Sequence[Hashable]) -> Any:
    """The commonest class of each group, as numbers from 0; of equally common ones the first."""
    import numpy

    names = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    counts: dict[int, Counter[int]] = defaultdict(Counter)
    for place, label in zip(group.tolist(), labels, strict=True):
        counts[place][names[label]] += 1
    commonest = [counts[place].most_common(1)[0][0] for place in range(len(counts))]
    return numpy.unique(commonest, return_inverse=True)[1]


def _quotas(sizes: Sequence[int], wanted: int) -> list[int]:
    """Share `wanted` out by size: largest remainders, equal ones in order, and never the last row of a class."""
    total = sum(sizes)
    quotas = [size * wanted // total for size in sizes]
    order = sorted(range(len(sizes)), key=lambda kind: -(sizes[kind] * wanted % total))
    able = [kind for kind in order if quotas[kind] + 1 < sizes[kind]]
    for kind in able[: wanted - sum(quotas)]:
        quotas[kind] += 1
    return quotas


def chosen(rows: Sequence[Mapping[str, Any]], numbers: Sequence[int]) -> Rows:
    """Take one side of a split, whose rows are still read only when they are needed; `numbers` ascend."""
    columns = rows.columns if isinstance(rows, Rows) else tuple(dict.fromkeys(name for row in rows for name in row))

    def fetch(start: int, stop: int) -> Iterator[list[Any]]:
        wanted = numbers[start:stop]
        block = rows[wanted[0] : wanted[-1] + 1]
        return ([block[number - wanted[0]].get(column) for column in columns] for number in wanted)

    return Rows(columns, len(numbers), fetch)


class Texts(Sequence[str]):
    """What the rows of a table say, read only when asked for: conversations without their system prompts.

    Of pairs, rated answers and prompts it is what was asked, so that no prompt is on both sides of a split.

    Parameters
    ----------
    rows : sequence of mapping
        The table.
    layout : Layout
        What its columns mean.
    numbers : sequence of int
        The rows that are meant, ascending.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], layout: Layout, numbers: Sequence[int]) -> None:
        self._rows, self._layout, self._numbers = rows, layout, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Texts: ...
    def __getitem__(self, index: int | slice) -> str | Texts:
        if isinstance(index, slice):
            return Texts(self._rows, self._layout, self._numbers[index])
        return self._said(self._rows[int(self._numbers[index])])

    def __iter__(self) -> Iterator[str]:
        meant = iter(self._numbers)
        wanted = next(meant, None)
        for number, row in enumerate(self._rows):
            if number == wanted:
                yield self._said(row)
                wanted = next(meant, None)

    def _said(self, row: Mapping[str, Any]) -> str:
        if self._layout.plain:
            return self._layout.text(row)
        messages = self._layout.messages(row)
        if self._layout.kind in ("preference", "rated", "prompt"):
            messages = messages[: asked(messages)]
        said = (turn for turn in messages if turn["role"] != "system")
        return "\n".join(f"{turn['content']} {turn.get('tool_calls', '')}".strip() for turn in said)

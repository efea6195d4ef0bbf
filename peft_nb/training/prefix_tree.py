"""Which leading tokens of some rows are computed once: a tree in which each row is a path.

Rows may share a system prompt, some of them a document after it, some of those a question: what they share is a node,
and a token of a row attends to what is on its path. No hidden state of a causal model depends on what follows, so that
the rows never notice; see :mod:`peft_nb.training.attention`.
"""

from __future__ import annotations

from array import array
from bisect import bisect
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

MIN_PREFIX = 8  # shared tokens that are worth a mask instead of a plain causal segment


class Node(NamedTuple):
    """Tokens ``start`` to ``stop`` of a row, and of all rows below; they follow those of ``parent``, -1 for none."""

    row: int
    start: int
    stop: int
    parent: int


def tree(rows: Sequence[Any]) -> tuple[list[Node], list[int]]:
    """Find what rows share.

    Parameters
    ----------
    rows : sequence of Encoded
        Any rows; only their ``ids`` count.

    Returns
    -------
    list of Node
        Depth first, parents before their children. A node is shared only from ``MIN_PREFIX`` tokens on.
    list of int
        For each row the node that its path ends in, or -1 for an empty row.
    """
    order, alike = sort(rows)
    nodes, ends = _grow([len(rows[number].ids) for number in order], alike)
    places = [-1] * len(rows)
    for number, end in zip(order, ends, strict=True):
        places[number] = end
    return [Node(order[row], *rest) for row, *rest in nodes], places


def tokens(rows: Sequence[Any]) -> int:
    """Number of tokens in the tree of some rows."""
    return sum(node.stop - node.start for node in tree(rows)[0])


def arrange(rows: Sequence[Any], budget: int) -> list[list[Any]]:
    """Cut rows into micro-batches of at most ``budget`` tokens, what shares a prefix together.

    Parameters
    ----------
    rows : sequence of Encoded
        The rows of a step.
    budget : int
        Tokens in the tree of a micro-batch; a single longer row still gets one of its own.

    Returns
    -------
    list of list
        At least one row each.
    """
    order, alike = sort(rows)
    lengths = [len(rows[number].ids) for number in order]
    starts = [place for place in range(len(order)) if alike[place] < MIN_PREFIX]
    families = [(cost(lengths, alike, first, stop), first, stop) for first, stop in pairwise([*starts, len(order)])]
    batches: list[list[Any]] = []
    room = 0
    for total, first, stop in sorted(families, key=lambda family: -family[0]):
        if total > room:
            batches.append([])
            room = budget
        while total > room and (split := _fitting(lengths, alike, first, stop, room)) < stop:
            batches[-1] += [rows[number] for number in order[first:split]]
            batches.append([])
            first, total = split, budget + 1
        batches[-1] += [rows[number] for number in order[first:stop]]
        room -= cost(lengths, alike, first, stop)
    return batches


def _fitting(lengths: Sequence[int], alike: Sequence[int], first: int, stop: int, room: int) -> int:
    """Where to end so that the sorted rows from ``first`` on fit; after the first of them at the earliest."""
    reach = 1
    while first + reach < stop and cost(lengths, alike, first, first + 2 * reach) <= room:
        reach *= 2
    places = range(first + reach, min(first + 2 * reach, stop) + 1)
    return max(first + 1, first + reach - 1 + bisect(places, room, key=lambda end: cost(lengths, alike, first, end)))


def sort(rows: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Put rows that begin alike next to each other, and count the tokens that each shares with the one before it."""
    # Bytes are compared fast, and rows that begin with the same tokens begin with the same bytes.
    coded = [array("i", row.ids).tobytes() for row in rows]
    order = sorted(range(len(rows)), key=coded.__getitem__)
    size = array("i").itemsize
    return order, [0, *(_alike(coded[one], coded[other]) // size for one, other in pairwise(order))][: len(order)]


def _alike(one: bytes, other: bytes) -> int:
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def cost(lengths: Sequence[int], alike: Sequence[int], start: int, stop: int) -> int:
    """Tokens in the tree of the sorted rows from ``start`` to ``stop``."""
    stop = min(stop, len(lengths))
    return (
        lengths[start]
        if stop - start == 1
        else sum(node.stop - node.start for node in _grow(lengths[start:stop], alike[start:stop])[0])
    )


def _grow(lengths: Sequence[int], alike: Sequence[int]) -> tuple[list[Node], list[int]]:
    """The nodes of sorted rows and the last one of each; ``alike[0]`` is not looked at."""
    nodes: list[Node] = []
    ends = [-1] * len(lengths)
    todo = [(0, len(lengths), 0, -1)] if lengths else []
    while todo:  # not recursion: rows that grow by a token each would make it deep
        first, stop, depth, parent = todo.pop()
        shared = min(alike[first + 1 : stop], default=lengths[first])
        if shared - depth >= (MIN_PREFIX if stop - first > 1 else 1):
            nodes.append(Node(first, depth, shared, parent))
            depth, parent = shared, len(nodes) - 1
        if stop - first == 1:
            ends[first] = parent
            continue
        bounds = [first, *(place for place in range(first + 1, stop) if alike[place] == shared), stop]
        todo += reversed([(start, end, depth, parent) for start, end in pairwise(bounds)])
    return nodes, ends

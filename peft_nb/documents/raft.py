"""Rows with documents before their questions: retrieval-augmented fine-tuning (RAFT).

A row gets the chunk that answers it among others that only look so, or in a share of the rows others alone, and its
answer is learned (Zhang et al., 2024, arXiv:2403.10131). The choice is drawn once a row and the order anew for each of
the first epochs, both by the seed. Where an answer says ``[golden]`` it cites: the number of that chunk is written
there, or nothing where the chunk is left out.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from peft_nb.data import RowProblem, Rows, refusal
from peft_nb.data.conversations import Message
from peft_nb.data.layouts import Layout, LayoutType, Role
from peft_nb.documents import prompt
from peft_nb.errors import DataError
from peft_nb.events import Progress, silent

if TYPE_CHECKING:
    from peft_nb.documents.retriever import Retriever

COLUMN = "documents put before the question"  # which no table has
CANDIDATES = 5  # chunks that are looked at for the answer of a row
ENOUGH = 0.5  # of what an answer says, by weight of its words, has to stand in its golden chunk
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Found:
    """What was found for the rows of a table.

    Attributes
    ----------
    rows, layout : Rows and Layout
        The table, whose conversations have documents in them.
    golden : list of int or None
        Of each row the number of the chunk that answers it.
    chunks : list of tuple of int
        Of each row the chunks before its question, in order.
    again : tuple of Rows
        The same rows with the same documents in other orders, for later epochs.
    """

    rows: Rows
    layout: Layout
    golden: list[int | None]
    chunks: list[tuple[int, ...]]
    again: tuple[Rows, ...] = ()

    @property
    def recall(self) -> float | None:
        """Share of the rows with a golden chunk that have it before their question; None where no row has one."""
        known = [one in chunks for one, chunks in zip(self.golden, self.chunks, strict=True) if one is not None]
        return sum(known) / len(known) if known else None


def for_training(
    retriever: Retriever,
    rows: Rows,
    layout: Layout,
    *,
    distractors: int,
    golden_fraction: float,
    seed: int,
    orders: int = 1,
    clean: Callable[[str], str] = str,
    progress: Progress = silent,
) -> Found:
    """Put documents before the questions of training rows.

    Parameters
    ----------
    retriever : Retriever
        The index.
    rows, layout : Rows and Layout
        The table, of the kind "chat"; where the layout has a column for the role ``golden``, that names the chunk.
    distractors : int
        Chunks beside the golden one: those that fit the question best.
    golden_fraction : float
        Share of the rows with a golden chunk that keep it; the others get one distractor more.
    seed : int
        Fixes which rows, and the order of the documents in each.
    orders : int, default 1
        In how many orders: one for each epoch that shall have its own.
    clean : callable, optional
        Takes what nobody shall learn out of a chunk.
    progress : callable, optional
        Told how far it is.

    Returns
    -------
    Found
        The rows with documents.

    Raises
    ------
    DataError
        When rows have no question, or name a chunk that the index does not hold.
    """
    asked, answered, named = _read(rows, layout, "row")
    golden = _golden(retriever, asked, answered, named, "row", progress)
    known = [number for number, one in enumerate(golden) if one is not None]
    draw = random.Random(seed)
    # random() alone is promised to be the same in every version of Python.
    order = sorted(known, key={number: draw.random() for number in known}.__getitem__)
    without = set(order[: round(len(known) * (1 - golden_fraction))])
    wrong = retriever.rank(asked, distractors + 2, progress)
    chosen = []
    for number, (one, ranked) in enumerate(zip(golden, wrong, strict=True)):
        others = [hit.chunk for hit in ranked if hit.chunk != one]
        given = [] if one is None or number in without else [one]
        chosen.append((*given, *others[: distractors + 1 - len(given)]))
    first, *later = ([_shuffled(given, draw) for given in chosen] for _ in range(orders))
    found = _laid(retriever, rows, layout, golden, first, clean)
    again = tuple(_laid(retriever, rows, layout, golden, order, clean).rows for order in later)
    return replace(found, again=again)


def for_evaluation(
    retriever: Retriever,
    rows: Rows,
    layout: Layout,
    *,
    k: int,
    clean: Callable[[str], str] = str,
    progress: Progress = silent,
) -> Found:
    """Put documents before the questions of evaluation rows as before those of users: found by the question alone.

    Parameters
    ----------
    retriever, rows, layout, clean, progress
        As of :func:`for_training`.
    k : int
        Chunks of each, best first.

    Returns
    -------
    Found
        The rows with documents; which chunk is golden was found as for training, and tells what was not found.

    Raises
    ------
    DataError
        As of :func:`for_training`.
    """
    asked, answered, named = _read(rows, layout, "evaluation row")
    golden = _golden(retriever, asked, answered, named, "evaluation row", progress)
    chosen = [tuple(hit.chunk for hit in ranked) for ranked in retriever.rank(asked, k, progress)]
    return _laid(retriever, rows, layout, golden, chosen, clean)


def _shuffled(given: Sequence[int], draw: random.Random) -> tuple[int, ...]:
    keys = dict(zip(given, [draw.random() for _ in given], strict=True))
    return tuple(sorted(given, key=keys.__getitem__))


def naming(layout: Layout, column: str | None) -> Layout:
    """Have a layout read the column that names the golden chunk of each row."""
    if column is None:
        return layout
    role = Role("golden", required=False, parse=lambda cell: cell, tells=False, written=False)
    entry = replace(layout.entry, roles=(*layout.entry.roles, role))
    return replace(layout, entry=entry, columns={**layout.columns, "golden": column})


def _read(rows: Rows, layout: Layout, row_name: str) -> tuple[list[str], list[str], list[Any]]:
    """Of each row the question, the answer, and what its golden chunk is called, if it is."""
    asked, answered, named = list[str](), list[str](), list[Any]()
    problems: dict[int, RowProblem] = {}
    for number, row in enumerate(rows):
        try:
            messages = layout.messages(row)
            asked.append(prompt.question(messages))
            answered.append(messages[-1]["content"] if messages[-1]["role"] == "assistant" else "")
            named.append(row.get(layout.columns["golden"]) if "golden" in layout.columns else None)
            if not asked[-1].strip():
                raise RowProblem("has an empty question", "write it or drop the row")
        except RowProblem as problem:
            problems[number] = problem
    if problems:
        raise refusal(problems, len(rows), row_name)
    return asked, answered, named


def _golden(
    retriever: Retriever,
    asked: Sequence[str],
    answered: Sequence[str],
    named: Sequence[Any],
    row_name: str,
    progress: Progress,
) -> list[int | None]:
    """The chunk that answers each row: the named one, else the one that says most of its answer, if it says enough."""
    weights = _weights(answered)
    found: list[int | None] = []
    both = [f"{question}\n{answer}" for question, answer in zip(asked, answered, strict=True)]
    problems: dict[int, RowProblem] = {}
    for number, ranked in enumerate(retriever.rank(both, CANDIDATES, progress)):
        if (name := named[number]) is not None and str(name).strip():
            if (own := retriever.named(name, both[number])) is None:
                fix = "name the text, the number or the document of a chunk, or build the index again with it"
                problems[number] = RowProblem(f"names the chunk {str(name)[:60]!r}, which the index lacks", fix)
            found.append(own)
            continue
        wanted = {word: weights[word] for word in _words(answered[number])}
        texts = retriever.chunks([hit.chunk for hit in ranked])
        shares = [sum(wanted.get(word, 0.0) for word in _words(one.searched)) for one in texts]
        most = max(shares, default=0.0)
        enough = most > 0 and most >= ENOUGH * sum(wanted.values())
        found.append(ranked[shares.index(most)].chunk if enough else None)
    if problems:
        raise refusal(problems, len(asked), row_name)
    return found


def _words(text: str) -> set[str]:
    return set(WORD.findall(text.casefold()))


def _weights(answers: Sequence[str]) -> dict[str, float]:
    """How much each word of the answers says: that in which all of them are alike says nothing of one."""
    counts = Counter(word for answer in answers for word in _words(answer))
    return {word: math.log((len(answers) + 1) / count) for word, count in counts.items()}


def _laid(
    retriever: Retriever,
    rows: Rows,
    layout: Layout,
    golden: list[int | None],
    chosen: list[tuple[int, ...]],
    clean: Callable[[str], str],
) -> Found:
    """Lay the chosen chunks over a table."""
    numbers = list(dict.fromkeys(number for one in chosen for number in one))
    chunks = dict(zip(numbers, retriever.chunks(numbers), strict=True))
    texts = {number: clean(chunk.searched) for number, chunk in chunks.items()}
    columns = rows.columns if isinstance(rows, Rows) else tuple(dict.fromkeys(name for row in rows for name in row))

    def fetch(start: int, stop: int) -> Iterator[list[Any]]:
        for number, row in enumerate(rows[start:stop], start):
            one = chosen[number]
            cell = {"texts": [texts[chunk] for chunk in one], "chunks": list(one), "golden": golden[number]}
            yield [*(row.get(column) for column in columns), cell]

    return Found(Rows((*columns, COLUMN), len(rows), fetch), _reading(layout), golden, chosen)


def _reading(layout: Layout) -> Layout:
    """The layout of rows with documents, which their conversations hold."""
    role = Role("documents", required=False, parse=lambda cell: cell, tells=False, written=False)
    entry: LayoutType = replace(
        layout.entry, roles=(*layout.entry.roles, role), write=partial(_written, layout.entry.write)
    )
    return replace(layout, entry=entry, columns={**layout.columns, "documents": COLUMN})


def _written(write: Callable[[dict[str, Any]], Any], cells: dict[str, Any]) -> list[Message]:
    laid = cells.pop("documents")
    golden = laid["chunks"].index(laid["golden"]) + 1 if laid["golden"] in laid["chunks"] else None
    return prompt.citing(prompt.put(write(cells), laid["texts"]), golden)


def laid(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """What documents stand before the question of a row.

    Parameters
    ----------
    row : mapping
        A row of :class:`Found`, or any other.

    Returns
    -------
    dict or None
        ``texts`` and ``chunks``, in order, and ``golden``, the number of the chunk that answers it or None.
    """
    found: dict[str, Any] | None = row.get(COLUMN)
    return found


def refuse(layout: Layout) -> None:
    """Refuse rows before which no documents can be put, in one line, as a DataError."""
    if layout.kind != "chat":
        raise DataError(f"{layout.why}: documents are put before questions; give rows with questions and answers")

"""Question and answer rows made from documents, and kept only where the documents bear them out."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import pandas as pd

from peft_nb.data.quality import duplicates
from peft_nb.documents.chunks import Chunk
from peft_nb.documents.retriever import Retriever
from peft_nb.documents.templates import Drafted
from peft_nb.errors import DataError
from peft_nb.events import Progress, silent

SHARE = 0.8  # of an answer's words that stand in the chunk
FOUND = 5  # the chunk is among so many that its question finds
QUESTION, ANSWER = (3, 60), (1, 200)  # words, at least and at most
BATCH = 8  # chunks that are written about at once

WORD = re.compile(r"\w+")
NUMBER = re.compile(r"\d")
COLUMNS = ["question", "answer", "source", "place", "chunk_id", "synthetic"]

Write = Callable[[Sequence[Chunk]], Sequence[Sequence[Drafted]]]
"""Takes chunks, and writes for each some questions with their answers."""


@dataclass(frozen=True)
class Rows:
    """What was written, and what of it was kept.

    Attributes
    ----------
    kept : pandas.DataFrame
        ``question``, ``answer``; ``source``, ``place`` and ``chunk_id`` of the chunk that bears them out;
        ``synthetic``, which says who wrote them.
    dropped : pandas.DataFrame
        The same columns, and ``reason``.
    notes : list of str
        What else there is to say.
    """

    kept: pd.DataFrame
    dropped: pd.DataFrame
    notes: list[str] = field(default_factory=list)


def synthesize(
    retriever: Retriever,
    write: Write,
    author: str,
    *,
    rows: int = 200,
    against: Sequence[str] = (),
    seed: int = 0,
    progress: Progress = silent,
) -> Rows:
    """Write rows about chunks drawn at random, evenly from all documents, until there are enough or none are left.

    A row is dropped if its question or answer is too short or too long; if its answer does not stand in the chunk (80 %
    of its words and all its numbers have to); if the chunk is none of the five that its question finds, by the same
    search that answers will use; if it nearly repeats a row before it; or a text that is evaluated on.

    Parameters
    ----------
    retriever : Retriever
        The documents.
    write : callable
        Writes questions and answers about chunks.
    author : str
        Who does, which is kept with each row.
    rows : int, default 200
        How many are wanted.
    against : sequence of str
        Questions that are evaluated on, which no row may repeat.
    seed : int, default 0
        Of the order of the chunks.
    progress : callable, optional
        Told how far it is.

    Returns
    -------
    Rows
        Those kept and those dropped. Interrupted, what there is so far.

    Raises
    ------
    DataError
        If fewer than one row is wanted, or what writes cannot be used.
    """
    if rows < 1:
        raise DataError(f"rows: {rows}; write 1 or more")
    judge, notes = _Judge(retriever, against), list[str]()
    kept, dropped, read = list[dict[str, Any]](), list[dict[str, Any]](), 0
    order = _order(retriever, seed)
    try:
        while len(kept) < rows and read < len(order):
            progress(max(len(kept) / rows, read / len(order)), f"writing rows, {len(kept):,} of {rows:,}")
            numbers = order[read : read + BATCH]
            chunks, read = retriever.chunks(numbers), read + len(numbers)
            for number, chunk, drafts in zip(numbers, chunks, write(chunks), strict=True):
                for one in drafts:
                    row = dict(zip(COLUMNS, (one.question, one.answer, *_origin(chunk), author), strict=True))
                    if why := judge(one, number, chunk):
                        dropped.append(row | {"reason": why})
                    elif len(kept) < rows:
                        judge.keep(one)
                        kept.append(row)
    except KeyboardInterrupt:
        notes.append(f"interrupted: {len(kept):,} of {rows:,} rows, from {read:,} of {len(order):,} chunks")
    if len(kept) < rows and not notes:
        notes.append(f"only {len(kept):,} of {rows:,} rows: all {read:,} chunks were written about")
    return Rows(pd.DataFrame(kept, columns=COLUMNS), pd.DataFrame(dropped, columns=[*COLUMNS, "reason"]), notes)


class _Judge:
    """Says what is wrong with a row."""

    def __init__(self, retriever: Retriever, against: Sequence[str]) -> None:
        self._retriever, self._against, self._kept = retriever, against, list[str]()

    def __call__(self, one: Drafted, number: int, chunk: Chunk) -> str:
        """Name the reason to drop a row; nothing where there is none."""
        for what, text, (least, most) in (("question", one.question, QUESTION), ("answer", one.answer, ANSWER)):
            if not least <= (words := len(text.split())) <= most:
                return f"{what} too {'short' if words < least else 'long'}"
        if not borne_out(one.answer, chunk.searched):
            return "answer not found in the chunk"
        if any(duplicates.alike(one.question, other) for other in self._against):
            return "leakage: its question is in the evaluation set"
        if any(duplicates.alike(one.question, other) for other in self._kept):
            return "near-duplicate of another row"
        if number not in self._retriever.search(one.question, FOUND).index:
            return "its question does not find the chunk"
        return ""

    def keep(self, one: Drafted) -> None:
        """Take a row in, which later ones may not repeat."""
        self._kept.append(one.question)


def borne_out(answer: str, text: str) -> bool:
    """Whether 80 % of an answer's words, and all its numbers, stand in a text."""
    said = {word.casefold() for word in WORD.findall(answer)}
    there = {word.casefold() for word in WORD.findall(text)}
    return all(word in there for word in said if NUMBER.search(word)) and len(said & there) >= SHARE * len(said)


def _origin(chunk: Chunk) -> tuple[str, str, str]:
    return chunk.source, chunk.place, chunk.digest[:16]


def _order(retriever: Retriever, seed: int) -> list[int]:
    """The numbers of all chunks, those of each document in random order, one document after the other in turn."""
    draw, first = random.Random(seed), 0
    each = list[list[int]]()
    for many in retriever.documents().chunks:
        each.append(draw.sample(range(first, first + many), many))
        first += many
    draw.shuffle(each)
    return list(_in_turn(each))


def _in_turn(each: Sequence[Sequence[int]]) -> Iterator[int]:
    for numbers in zip_longest(*each):
        yield from (number for number in numbers if number is not None)

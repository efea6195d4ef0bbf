"""Documents cut into chunks of about the same length, each whole paragraphs or sentences where that fits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from peft_nb.documents.reading import Document, Section

SIZE = 800  # characters: about 200 tokens, of which small encoders read 256
PARAGRAPHS = re.compile(r"\n(?:[^\S\n]*\n)+")
SENTENCES = re.compile(r"(?<=[.!?…])\s+|\n")
WORDS = re.compile(r"\s+")


@dataclass(frozen=True)
class Chunk:
    """A piece of a document.

    Attributes
    ----------
    source, place : str
        The document, and where in it: its headings, its page, or ``line 12``.
    text : str
        What it says.
    heading : str
        What it stands under, which is searched with it.
    """

    source: str
    place: str
    text: str
    heading: str = ""

    @property
    def searched(self) -> str:
        """What it is found by."""
        return f"{self.heading}\n{self.text}" if self.heading else self.text

    @property
    def digest(self) -> str:
        """The SHA-256 of what it is found by."""
        return hashlib.sha256(self.searched.encode("utf-8", "replace")).hexdigest()


def cut(documents: Iterable[Document], size: int = SIZE) -> list[Chunk]:
    """Cut documents into chunks.

    Parameters
    ----------
    documents : iterable of Document
        What :func:`.reading.read` gives.
    size : int, default 800
        Characters of a chunk at most; a paragraph that is longer is cut between sentences, these between words.

    Returns
    -------
    list of Chunk
        In the order of the documents, without empty ones; together all the text there is, but for white space at
        their ends.
    """
    return [
        Chunk(document.source, section.place or f"line {line}", text, section.heading)
        for document in documents
        for section in document.sections
        for line, text in _pieces(section, size)
    ]


def _pieces(section: Section, size: int) -> Iterator[tuple[int, str]]:
    """The line in which each chunk of a section begins, and its text."""
    text, begun = section.text, -1
    end = 0
    for start, stop in _spans(text, 0, len(text), size, (PARAGRAPHS, SENTENCES, WORDS)):
        if begun >= 0 and stop - begun > size:
            yield section.line + text.count("\n", 0, begun), text[begun:end]
            begun = -1
        begun, end = (start if begun < 0 else begun), stop
    if begun >= 0:
        yield section.line + text.count("\n", 0, begun), text[begun:end]


def _spans(
    text: str, start: int, stop: int, size: int, borders: tuple[re.Pattern[str], ...]
) -> Iterator[tuple[int, int]]:
    """Where the parts between borders begin and end, those that are too long taken apart at the next kind of border."""
    if not borders:
        yield from ((at, min(at + size, stop)) for at in range(start, stop, size))
        return
    cuts = [start, *(place for found in borders[0].finditer(text, start, stop) for place in found.span()), stop]
    for at, to in zip(cuts[::2], cuts[1::2], strict=True):
        while at < to and text[at].isspace():
            at += 1
        while at < to and text[to - 1].isspace():
            to -= 1
        if to - at > size:
            yield from _spans(text, at, to, size, borders[1:])
        elif at < to:
            yield at, to

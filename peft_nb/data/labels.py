"""Labelled texts: the classes found in a table, and its texts as token ids with the numbers of their classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peft_nb.data import RowProblem, refusal
from peft_nb.data.conversations import parse_cell
from peft_nb.data.encoding import BATCH, DOING
from peft_nb.data.examples import Encoded, Example, Report, collect
from peft_nb.data.examples import cached as cached_examples
from peft_nb.data.layouts import Layout
from peft_nb.data.rendered import RenderedRows
from peft_nb.data.rendering import tokens, unwrap
from peft_nb.errors import DataError, nearest
from peft_nb.events import Progress

SHOWN = 6  # classes named in a notice


@dataclass(frozen=True)
class Classes:
    """What a text can be.

    Attributes
    ----------
    names : tuple of str
        The classes; their places are the numbers that a model gives.
    multi : bool
        Whether a text may have several of them, or none.
    """

    names: tuple[str, ...]
    multi: bool

    def __str__(self) -> str:
        more = f", … (and {len(self.names) - SHOWN:,} more)" if len(self.names) > SHOWN else ""
        several = ", several of them a text" if self.multi else ""
        return f"{len(self.names):,} classes{several}: {', '.join(self.names[:SHOWN])}{more}"


def find(rows: Sequence[Mapping[str, Any]], layout: Layout) -> Classes:
    """Find the classes of a table.

    Parameters
    ----------
    rows : sequence of mapping
        The training rows.
    layout : Layout
        What their columns mean.

    Returns
    -------
    Classes
        Names in order, whole numbers by value. There are several labels a text when any row has more or fewer than
        one, or the column holds lists.

    Raises
    ------
    DataError
        When rows have no usable label, all of them counted, or when all have the same.
    """
    column, multi = layout.columns["label"], False
    names: set[str] = set()
    problems: dict[int, RowProblem] = {}
    for number, row in enumerate(rows):
        try:
            own = layout.labels(row)
        except RowProblem as problem:
            problems[number] = problem
        else:
            names.update(own)
            multi |= len(own) != 1 or isinstance(parse_cell(row[column]), list | tuple)
    if problems:
        raise refusal(problems, len(rows))
    if len(names) < 2:
        only = f"only the label {min(names)!r}" if names else "no label at all"
        raise DataError(f"column {column!r} holds {only}; give rows of at least two classes")
    return Classes(tuple(sorted(names, key=_by_value)), multi)


def _by_value(name: str) -> tuple[bool, int, str]:
    number = int(name) if name.removeprefix("-").isdecimal() else None
    return number is None, number or 0, name


def read(
    rows: Sequence[Mapping[str, Any]], layout: Layout, classes: Classes, row_name: str = "row"
) -> list[tuple[str, tuple[int, ...]]]:
    """Read the texts of a table and their labels as numbers of classes.

    Parameters
    ----------
    rows : sequence of mapping
        The table.
    layout : Layout
        What its columns mean.
    classes : Classes
        What is known from the training rows.
    row_name : str, default "row"
        What errors call a row, such as ``evaluation row``.

    Returns
    -------
    list of tuple of str and tuple of int
        One a row; the numbers ascend.

    Raises
    ------
    DataError
        When a text is empty, or a label missing or in no training row: all such rows counted, the first five named.
    """
    known = {name: number for number, name in enumerate(classes.names)}
    found: list[tuple[str, tuple[int, ...]]] = []
    problems: dict[int, RowProblem] = {}
    for number, row in enumerate(rows):
        try:
            text, own = layout.text(row), layout.labels(row)
            if unknown := [name for name in own if name not in known]:
                reason = f"has the label {unknown[0]!r}, which no training row has{nearest(unknown[0], known)}"
                raise RowProblem(reason, "correct it, or give training rows of that class")
            if len(own) != 1 and not classes.multi:
                raise RowProblem(f"has {len(own)} labels, and every training row has one", "give it one label")
            found.append((text, tuple(sorted({known[name] for name in own}))))
        except RowProblem as problem:
            problems[number] = problem
    if problems:
        raise refusal(problems, len(rows), row_name)
    return found


def encode(
    rendered: RenderedRows,
    learned: Sequence[tuple[Any, ...]],
    told: str,
    *,
    max_length: int,
    too_long: Literal["truncate", "drop"] = "truncate",
    folder: Path | None = None,
    progress: Progress | None = None,
    row_name: str = "row",
) -> Encoded:
    """Encode every row of a labelled table.

    Parameters
    ----------
    rendered : RenderedRows
        The table; texts have the special tokens that the tokenizer adds of itself.
    learned : sequence of tuple
        What is learned of each text, as numbers, such as those of its classes, ascending.
    told : str
        What that is, in words, for the report.
    max_length : int
        Most tokens of a text, special ones included.
    too_long : {"truncate", "drop"}, default "truncate"
        What becomes of longer ones.
    folder : Path, optional
        Where to write the examples; without one they stay in memory.
    progress : callable, optional
        Called about every `BATCH` rows with the share that is done (0 to 1) and what is being done.
    row_name : str, default "row"
        What errors call a row, such as ``evaluation row``.

    Returns
    -------
    Encoded
        One example a row that was kept, in the same order.

    Raises
    ------
    DataError
        When every text is too long and dropped.
    StoreError
        When `folder` cannot be written.
    """
    long: list[int] = []

    def produced() -> Iterator[tuple[int, Example]]:
        for number, (one, labels) in enumerate(zip(rendered, learned, strict=True)):
            ids = unwrap(one).ids
            if len(ids) > max_length:
                long.append(number)
            if len(ids) <= max_length:
                yield number, Example.whole(ids, labels)
            elif too_long == "truncate":  # anew, for the last special token has to stay
                text = rendered.layout.text(rendered.rows[number])
                yield number, Example.whole(tokens(rendered.tokenizer, [text], max_length)[0], labels)
            if progress and ((number + 1) % BATCH == 0 or number + 1 == len(learned)):
                progress((number + 1) / len(learned), DOING)
        if too_long == "drop" and len(long) == len(learned):
            raise DataError(f"every {row_name} is longer than {max_length:,} tokens; raise max_length or truncate")

    def report(examples: int, total: int, supervised: int) -> Report:
        counts = len(learned), examples, total, supervised
        return Report(*counts, tuple(long), too_long, max_length, told, rendered.layout.why)

    return collect(produced(), report, folder)


def cached(
    root: Path,
    fingerprint: str,
    rendered: RenderedRows,
    learned: Sequence[tuple[Any, ...]],
    told: str,
    *,
    max_length: int,
    too_long: Literal["truncate", "drop"] = "truncate",
    row_name: str = "row",
    progress: Progress | None = None,
) -> tuple[str, Encoded]:
    """Find labelled rows that were encoded before, or encode them and keep them; see :func:`.encoding.cached`."""
    options: dict[str, Any] = {"max_length": max_length, "too_long": too_long}

    def work(folder: Path) -> Encoded:
        if progress:
            progress(0.0, DOING)
        return encode(rendered, learned, told, folder=folder, progress=progress, row_name=row_name, **options)

    layout = rendered.layout
    own = hashlib.sha256(json.dumps(learned).encode()).hexdigest()
    settings = {**options, "labels": own, "part": row_name, "layout": layout.name, "columns": layout.columns}
    return cached_examples(root, fingerprint, rendered.tokenizer, settings, work)

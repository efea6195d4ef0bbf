"""Labelled texts: the classes found in a table, and its texts as token ids with the numbers of their classes."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peft_nb.data import RowProblem, refusal
from peft_nb.data.conversations import unpacked
from peft_nb.data.formats import Layout
from peft_nb.errors import DataError, nearest
from peft_nb.system.files import writing

BATCH = 512  # texts tokenised at a time
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


@dataclass(frozen=True, slots=True)
class Labelled:
    """One encoded row: token ids, and the numbers of its classes in ascending order."""

    ids: array[int]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Encoded:
    """Encoded rows in the order of the data, the texts they were made of, and what was done to them."""

    examples: list[Labelled]
    texts: list[str]
    report: str


def check_task(task: str, layout: Layout, too_long: str = "truncate") -> None:
    """Refuse data that do not fit what is to be learned.

    Parameters
    ----------
    task : {"generation", "classification"}
        What is to be learned.
    layout : Layout
        What the data are.
    too_long : {"truncate", "drop", "split"}, default "truncate"
        What becomes of texts over the length; parts of a text need not have its label, so none is split.

    Raises
    ------
    DataError
        One line that says how to mend it.
    """
    labelled = layout.kind == "labelled"
    if labelled and task == "generation":
        raise DataError(f"{layout.why}: these rows have labels and no answers to learn; set task: classification")
    if task == "generation":
        return
    if not labelled:
        say = "format: text_label and columns: {text: …, label: …}"
        raise DataError(f"{layout.why}: task: classification learns a text's label; say which columns hold them, {say}")
    if too_long == "split":
        raise DataError("too_long: split would give each part of a text the label of the whole; take truncate or drop")


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
            multi |= len(own) != 1 or isinstance(unpacked(row[column]), list | tuple)
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
        What errors call a row, such as ``held-out row``.

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
    rows: Sequence[Mapping[str, Any]],
    layout: Layout,
    classes: Classes,
    tokenizer: Any,
    *,
    max_length: int,
    too_long: Literal["truncate", "drop"] = "truncate",
    row_name: str = "row",
) -> Encoded:
    """Encode every row of a labelled table.

    Parameters
    ----------
    rows : sequence of mapping
        The table.
    layout : Layout
        What its columns mean.
    classes : Classes
        What its labels can be.
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's tokenizer; texts get the special tokens that it adds of itself.
    max_length : int
        Most tokens of a text, special ones included.
    too_long : {"truncate", "drop"}, default "truncate"
        What becomes of longer ones.
    row_name : str, default "row"
        What errors call a row, such as ``held-out row``.

    Returns
    -------
    Encoded
        One example a row that was kept, in the same order.

    Raises
    ------
    DataError
        As :func:`read` does, or when every text is too long and dropped.
    """
    found = read(rows, layout, classes, row_name)
    whole = tokens(tokenizer, [text for text, _ in found])
    long = [number for number, ids in enumerate(whole) if len(ids) > max_length]
    cut = dict(zip(long, tokens(tokenizer, [found[number][0] for number in long], max_length), strict=True))
    dropped = cut if too_long == "drop" else {}
    kept = [number for number in range(len(found)) if number not in dropped]
    if not kept:
        raise DataError(f"every {row_name} is longer than {max_length:,} tokens; raise max_length or truncate")
    examples = [Labelled(array("i", cut.get(number, whole[number])), found[number][1]) for number in kept]
    over = f", {len(long):,} {'left out as longer than' if dropped else 'cut at'} {max_length:,}" if long else ""
    total = sum(len(one.ids) for one in examples)
    report = (
        f"{layout.why}; {classes}; {len(examples):,} {row_name}{'s' * (len(examples) != 1)}, {total:,} tokens{over}"
    )
    return Encoded(examples, [found[number][0] for number in kept], report)


def tokens(tokenizer: Any, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
    """Tokenise texts for a classifier, special tokens included, also where a text is cut.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's tokenizer.
    texts : sequence of str
        What to tokenise.
    max_length : int, optional
        Where to cut; by default nothing is.

    Returns
    -------
    list of list of int
        Token ids, at least one a text.
    """
    options: dict[str, Any] = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    options |= {"truncation": max_length is not None, "max_length": max_length}
    found: list[list[int]] = []
    for start in range(0, len(texts), BATCH):
        found += tokenizer(list(texts[start : start + BATCH]), **options)["input_ids"]
    # A vocabulary may have nothing for a text; a model cannot be asked about no token at all.
    return [ids or [tokenizer.pad_token_id] for ids in found]


def save(path: Path, train: Sequence[Labelled], held_out: Sequence[Labelled]) -> None:
    """Write training and held-out examples to one safetensors file, so that a run resumes without its data.

    Parameters
    ----------
    path : Path
        The file.
    train, held_out : sequence of Labelled
        What to write.

    Raises
    ------
    StoreError
        If the disk refuses.
    """
    import numpy
    from safetensors.numpy import save_file

    both = [*train, *held_out]
    tensors = {"train": numpy.array([len(train)])}
    for name in ("ids", "labels"):
        rows = [getattr(one, name) for one in both]
        tensors[name] = numpy.fromiter((number for row in rows for number in row), dtype=numpy.int32)
        tensors[f"{name}_lengths"] = numpy.array([len(row) for row in rows])
    with writing(path):
        staging = path.with_suffix(".new")
        save_file(tensors, staging)
        staging.replace(path)


def load(path: Path) -> tuple[list[Labelled], list[Labelled]]:
    """Read back the training and held-out examples that :func:`save` wrote.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    tuple of list of Labelled and list of Labelled
        Equal to what was written.
    """
    import numpy
    from safetensors.numpy import load_file

    tensors = load_file(path)
    ids, labels = (numpy.split(tensors[name], tensors[f"{name}_lengths"].cumsum()[:-1]) for name in ("ids", "labels"))
    both = [
        Labelled(array("i", own.tobytes()), tuple(numbers.tolist())) for own, numbers in zip(ids, labels, strict=True)
    ]
    count = int(tensors["train"][0])
    return both[:count], both[count:]

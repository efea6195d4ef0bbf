"""Encoded examples, in memory or mapped from disk.

On disk they lie beside the runs of a store, in a folder named by all that went into them:

    examples/<key>/
      ids.npy            token ids of all examples end to end
      supervised.npy     1 where the id is a target of the loss, else 0
      ends.npy           where each example ends
      targets.npy        number of targets of each example
      rows.npy           the row each example comes from
      report.json        what encoding did

The same rows are so tokenised once, and a run resumes without the data it was started on.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    import numpy

VERSION = 1  # to be raised whenever the same rows are encoded otherwise or kept in other files
CHUNK = 4096  # examples held in memory while they are written
KINDS = {"ids": "<i4", "supervised": "|u1", "ends": "<i8", "targets": "<i4", "rows": "<i8"}


@dataclass(frozen=True, slots=True)
class Example:
    """One encoded example: token ids, and for each of them 1 where it is a target of the loss, else 0."""

    ids: array[int]
    supervised: bytes


@dataclass(frozen=True)
class Report:
    """What encoding did with ``rows`` rows; `long` holds the numbers of those over `max_length` tokens."""

    rows: int
    examples: int
    tokens: int
    supervised_tokens: int
    long: tuple[int, ...]
    too_long: str
    max_length: int
    template: str
    why: str

    def __str__(self) -> str:
        counts = f"{self.rows:,} rows, {self.tokens:,} tokens, {self.supervised_tokens:,} of them trained on"
        parts = self.examples - self.rows + len(self.long)
        done = {
            "truncate": f"cut at {self.max_length:,} tokens",
            "drop": f"over {self.max_length:,} tokens left out",
            "split": f"over {self.max_length:,} tokens split into {parts:,} examples",
        }[self.too_long]
        long = f", {len(self.long):,} row{'s' if len(self.long) > 1 else ''} {done}" if self.long else ""
        return f"{self.why}; {self.template}; {counts}{long}"


class Examples(Sequence[Example]):
    """Encoded examples that become objects only when they are asked for; slices are views.

    Parameters
    ----------
    ids, supervised : numpy.ndarray
        Of all examples, end to end.
    starts, stops, targets, rows : numpy.ndarray
        Of each example: its place there, its number of targets, the row it comes from.
    """

    def __init__(self, ids: Any, supervised: Any, starts: Any, stops: Any, targets: Any, rows: Any) -> None:
        self._ids, self._supervised = ids, supervised
        self._starts, self._stops, self._targets = starts, stops, targets
        self.rows: numpy.ndarray = rows

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Examples: ...
    def __getitem__(self, index: int | slice) -> Example | Examples:
        if isinstance(index, slice):
            return self.take(index)
        start, stop = int(self._starts[index]), int(self._stops[index])
        return Example(array("i", self._ids[start:stop].tobytes()), self._supervised[start:stop].tobytes())

    def __iter__(self) -> Iterator[Example]:
        return map(self.__getitem__, range(len(self)))

    @property
    def lengths(self) -> numpy.ndarray:
        """Tokens of each example."""
        lengths: numpy.ndarray = self._stops - self._starts
        return lengths

    @property
    def tokens(self) -> int:
        """Tokens of all examples."""
        return int(self.lengths.sum())

    @property
    def supervised_tokens(self) -> int:
        """Targets of the loss in all examples."""
        return int(self._targets.sum(dtype="int64"))

    def take(self, places: Any) -> Examples:
        """Choose examples without copying them.

        Parameters
        ----------
        places : slice, numpy.ndarray or list of int
            Which examples, or for each of them whether.

        Returns
        -------
        view : Examples
            Those examples in that order.
        """
        columns = (self._starts, self._stops, self._targets, self.rows)
        return Examples(self._ids, self._supervised, *(column[places] for column in columns))

    def parted(self, rows: Sequence[int]) -> tuple[Examples, Examples]:
        """Part the examples by the rows they come from.

        Parameters
        ----------
        rows : sequence of int
            Row numbers.

        Returns
        -------
        others, those : tuple of Examples
            Those of all other rows, and those of `rows`.
        """
        import numpy

        those = numpy.isin(self.rows, rows)
        return self.take(~those), self.take(those)

    def shortest(self, count: int) -> list[Example]:
        """The shortest examples, by lengths alone.

        Parameters
        ----------
        count : int
            How many.

        Returns
        -------
        list of Example
            Shortest first, of equal ones the first.
        """
        return [self[int(place)] for place in self.lengths.argsort(kind="stable")[:count]]


def gather(examples: Iterable[tuple[int, Example]]) -> Examples:
    """Lay examples end to end in memory.

    Parameters
    ----------
    examples : iterable of (int, Example)
        Row numbers and what became of them.

    Returns
    -------
    gathered : Examples
        In the same order.
    """
    ids, supervised = array("i"), bytearray()
    ends, targets, rows = array("q"), array("i"), array("q")
    for row, example in examples:
        ids += example.ids
        supervised += example.supervised
        ends.append(len(ids))
        targets.append(example.supervised.count(1))
        rows.append(row)
    return _examples({"ids": ids, "supervised": supervised, "ends": ends, "targets": targets, "rows": rows})


def _examples(columns: dict[str, Any]) -> Examples:
    import numpy

    arrays = {name: numpy.asarray(memoryview(columns[name])).view(kind) for name, kind in KINDS.items()}
    ends = arrays["ends"]
    starts = numpy.concatenate([[0], ends])[:-1]
    return Examples(arrays["ids"], arrays["supervised"], starts, ends, arrays["targets"], arrays["rows"])


def write(folder: Path, examples: Iterable[tuple[int, Example]]) -> None:
    """Write examples to a folder, a few thousand at a time.

    Parameters
    ----------
    folder : Path
        Where the ``.npy`` files go.
    examples : iterable of (int, Example)
        Row numbers and what became of them.
    """
    from numpy.lib import format

    def header(file: Any, kind: str, length: int) -> None:
        format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": (length,)})

    remaining, written = iter(examples), dict.fromkeys(KINDS, 0)
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.npy").open("wb")) for name in KINDS}
        for name, kind in KINDS.items():
            header(files[name], kind, 0)  # leaves room for any length
        while len(part := gather(islice(remaining, CHUNK))):
            ends = part._stops + written["ids"]
            columns = (part._ids, part._supervised, ends, part._targets, part.rows)
            for (name, kind), column in zip(KINDS.items(), columns, strict=True):
                files[name].write(column.astype(kind, copy=False).data)
                written[name] += len(column)
        for name, kind in KINDS.items():
            files[name].seek(0)
            header(files[name], kind, written[name])


def save_report(folder: Path, report: Report) -> None:
    """Write a report beside its examples."""
    (folder / "report.json").write_text(json.dumps(asdict(report)), encoding="utf-8")


@dataclass(frozen=True)
class Encoded:
    """Encoded rows in the order of the data, and what was done to them."""

    examples: Examples
    report: Report


def load(folder: Path) -> Encoded | None:
    """Map examples into memory.

    Parameters
    ----------
    folder : Path
        What :func:`write` and :func:`save_report` filled.

    Returns
    -------
    Encoded or None
        None if there is no such folder or something in it is damaged.
    """
    import numpy

    try:
        columns = {name: numpy.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in KINDS}
        told = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        report = Report(**{**told, "long": tuple(told["long"])})
        whole = len(columns["ends"]) == report.examples and columns["ends"][-1] == report.tokens
        whole &= len(columns["ids"]) == len(columns["supervised"]) == report.tokens
        return Encoded(_examples(columns), report) if whole else None
    except (OSError, ValueError, TypeError, LookupError):
        return None


def key(fingerprint: str, tokenizer: Any, settings: dict[str, Any]) -> str:
    """Name examples by everything that they depend on.

    Parameters
    ----------
    fingerprint : str
        Of the rows.
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's tokenizer.
    settings : dict
        Whatever else has an influence; what JSON can hold.

    Returns
    -------
    str
        SHA-256, 64 hexadecimal digits.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    core = json.loads(backend.to_str()) if backend else {"class": type(tokenizer).__name__, **tokenizer.get_vocab()}
    for passing in ("truncation", "padding"):  # switched on and off by those who use it
        core.pop(passing, None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    parts = [VERSION, fingerprint, core, tokenizer.chat_template, special, tokenizer.all_special_ids, settings]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

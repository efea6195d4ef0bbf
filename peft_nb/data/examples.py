"""Encoded examples, in memory or mapped from disk.

On disk they lie beside the runs of a store, in a folder named by all that went into them:

    examples/<key>/
      ids.npy            token ids of all examples end to end
      supervised.npy     1 where the id is a target of the loss, else 0
      ends.npy           where each example ends
      targets.npy        what a mean loss divides by, of each example
      rows.npy           the row each example comes from
      labels.npy         labels of all examples end to end, where examples have labels
      label_ends.npy     where the labels of each example end, likewise
      signals.npy        bytes of all examples that are no tokens, such as pixels, end to end, where there are any
      signal_ends.npy    where those of each example end, likewise
      costs.npy          what each example costs a micro-batch, likewise
      report.json        what encoding did

The same rows are so tokenised once, and a run resumes without the data it was started on.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from peft_nb.errors import StoreError
from peft_nb.system.files import atomic_folder, remove_leftovers

if TYPE_CHECKING:
    import numpy

VERSION = 1  # to be raised whenever the same rows are encoded otherwise or kept in other files
CHUNK = 512  # examples held in memory while they are written
ARRAYS = {"ids": "<i4", "supervised": "|u1", "ends": "<i8", "targets": "<i4", "rows": "<i8"}
LABELS = {"labels": "<f8", "label_ends": "<i8"}
EMPTY = 128  # bytes of a file that holds its header alone
SIGNALS = {"signals": "|u1", "signal_ends": "<i8", "costs": "<i4"}


@dataclass(frozen=True, slots=True)
class Example:
    """One encoded example of any task.

    Attributes
    ----------
    ids : array of int
        Token ids.
    supervised : bytes
        For each of them 1 where it is a target of the loss, else 0; all 0 where the example is learned as a whole.
    labels : tuple of int or float
        What is learned of the whole: numbers of classes, values of a regression; of a pair where its first sequence
        ends, see :func:`joined`, and of a rated answer 1 where it is good, else 0.
    signal : bytes
        What of it is no text, such as the pixels of an image, in the form of its task.
    units : int
        What the signal costs a micro-batch, such as the patches of an image.
    """

    ids: array[int]
    supervised: bytes
    labels: tuple[Any, ...] = ()
    signal: bytes = b""
    units: int = 0

    @classmethod
    def whole(cls, ids: Iterable[int], labels: tuple[Any, ...] = ()) -> Example:
        """Make an example that is learned as a whole."""
        ids = array("i", ids)
        return cls(ids, bytes(len(ids)), labels)

    @classmethod
    def of_signal(cls, signal: bytes, units: int, labels: tuple[Any, ...] = ()) -> Example:
        """Make an example without a text, that is learned as a whole."""
        return cls(array("i"), b"", labels, signal, units)

    @property
    def cost(self) -> int:
        """What it costs a micro-batch: its tokens, and its units."""
        return len(self.ids) + self.units

    @property
    def targets(self) -> int:
        """What a mean loss divides by: its supervised tokens, or 1 where it is learned as a whole."""
        return self.supervised.count(1) or 1


def joined(*sequences: Example) -> Example:
    """Lay the sequences of one example, such as the two sides of a pair, end to end.

    Parameters
    ----------
    *sequences : Example
        At least one; their labels are left out.

    Returns
    -------
    Example
        Its ``labels`` say where each sequence but the last ends, in tokens.
    """
    ids, supervised, ends = array("i"), bytearray(), []
    for one in sequences:
        ids += one.ids
        supervised += one.supervised
        ends.append(len(ids))
    return Example(ids, bytes(supervised), tuple(ends[:-1]))


def parts(example: Example) -> tuple[Example, ...]:
    """Part what :func:`joined` laid end to end."""
    bounds = [0, *example.labels, len(example.ids)]
    return tuple(Example(example.ids[start:stop], example.supervised[start:stop]) for start, stop in pairwise(bounds))


@dataclass(frozen=True)
class Report:
    """What encoding did with ``rows`` rows.

    `long` holds the numbers of those over `max_length` tokens, `dropped` of those whose prompt alone is, `alike` of
    those whose two answers differ only after it; `template` says how rows were written or, where they are learned as
    a whole, what is learned of them. `unit` is what an example is called, of which a row of preferences may give
    several: then the three hold its number several times. `limit_unit` is what `max_length` counts.
    """

    rows: int
    examples: int
    tokens: int
    supervised_tokens: int
    long: tuple[int, ...]
    too_long: str
    max_length: int
    template: str
    why: str
    dropped: tuple[int, ...] = ()
    alike: tuple[int, ...] = ()
    unit: str = "row"
    limit_unit: str = "tokens"

    def __str__(self) -> str:
        return f"{self.why}; {self.template}; {self._counts() if self.supervised_tokens else self._whole_counts()}"

    def _counts(self) -> str:
        lost = len(self.dropped) + len(self.alike)
        total = self.rows
        if self.unit != "row":  # no example is split then
            total = self.examples + (len(self.long) if self.too_long == "drop" else lost)
        parts = self.examples - self.rows + len(self.long)
        done = {
            "truncate": f"cut at {self.max_length:,} tokens",
            "drop": f"over {self.max_length:,} {self.limit_unit} dropped",
            "split": f"over {self.max_length:,} tokens split into {parts:,} examples",
        }[self.too_long]
        told = [f"{self._several(over)} {done}"] if (over := len(self.long) - lost) else []
        if gone := len(self.dropped):
            told.append(f"{self._several(gone)} dropped: the prompt alone fills max_length")
        if alike := len(self.alike):
            told.append(f"{self._several(alike)} dropped: the answers differ only after max_length")
        count = f"{self._several(total)}, {self.tokens:,} tokens, {self.supervised_tokens:,} of them in the loss"
        return ", ".join([count, *told])

    def _several(self, count: int) -> str:
        return f"{count:,} {self.unit}{'s' * (count != 1)}"

    def _whole_counts(self) -> str:
        done = f"{'dropped as longer than' if self.too_long == 'drop' else 'cut at'} {self.max_length:,}"
        over = f", {len(self.long):,} {done}" if self.long else ""
        counts = f"{self.examples:,} {self.unit}{'s' * (self.examples != 1)}"
        return f"{counts}, {self.tokens:,} tokens{over}" if self.tokens else counts


def fingerprint(examples: Iterable[Example]) -> str:
    """Hash what some examples hold, wherever it is kept."""
    digest = hashlib.sha256()
    for one in examples:
        digest.update(b"%d " % len(one.ids) + bytes(one.ids) + one.supervised + repr(one.labels).encode())
        digest.update(one.signal)
    return digest.hexdigest()


class Examples(Sequence[Example]):
    """Encoded examples that become objects only when they are asked for; slices are views.

    Parameters
    ----------
    ids, supervised, labels : numpy.ndarray
        Of all examples, end to end.
    table : mapping of str to numpy.ndarray
        Of each example: its ``start`` and ``stop`` in `ids`, ``label_start`` and ``label_stop`` in `labels`, its
        ``targets``, and the ``row`` it comes from; where there are signals ``signal_start``, ``signal_stop`` and
        ``units``.
    signals : numpy.ndarray, optional
        Of all examples, end to end.
    """

    def __init__(
        self, ids: Any, supervised: Any, labels: Any, table: Mapping[str, Any], signals: Any | None = None
    ) -> None:
        self._ids, self._supervised, self._labels, self._table = ids, supervised, labels, table
        self._signals = signals

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Examples: ...
    def __getitem__(self, index: int | slice) -> Example | Examples:
        if isinstance(index, slice):
            return self.take(index)
        own = slice(int(self._table["start"][index]), int(self._table["stop"][index]))
        signal, units = b"", 0
        if self._signals is not None:
            part = slice(int(self._table["signal_start"][index]), int(self._table["signal_stop"][index]))
            signal, units = self._signals[part].tobytes(), int(self._table["units"][index])
        text = array("i", self._ids[own].tobytes()), self._supervised[own].tobytes()
        return Example(*text, self._labels_of(index), signal, units)

    def __iter__(self) -> Iterator[Example]:
        return map(self.__getitem__, range(len(self)))

    def _labels_of(self, index: int) -> tuple[Any, ...]:
        own = self._labels[int(self._table["label_start"][index]) : int(self._table["label_stop"][index])]
        return tuple(int(number) if number.is_integer() else number for number in own.tolist())

    @property
    def rows(self) -> numpy.ndarray:
        """The row each example comes from."""
        rows: numpy.ndarray = self._table["row"]
        return rows

    @property
    def labels(self) -> list[tuple[Any, ...]]:
        """Labels of each example; whole numbers are ints."""
        return list(map(self._labels_of, range(len(self))))

    @property
    def lengths(self) -> numpy.ndarray:
        """Tokens of each example."""
        lengths: numpy.ndarray = self._table["stop"] - self._table["start"]
        return lengths

    @property
    def costs(self) -> numpy.ndarray:
        """What each example costs a micro-batch, :attr:`Example.cost`."""
        return self.lengths if self._signals is None else self.lengths + self._table["units"]

    @property
    def tokens(self) -> int:
        """Tokens of all examples."""
        return int(self.lengths.sum())

    @property
    def targets(self) -> int:
        """What a mean loss divides by, of all examples together, :attr:`Example.targets`."""
        return int(self._table["targets"].sum(dtype="int64"))

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
        table = {name: column[places] for name, column in self._table.items()}
        return Examples(self._ids, self._supervised, self._labels, table, self._signals)

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
        return [self[int(place)] for place in self.costs.argsort(kind="stable")[:count]]


@dataclass(frozen=True)
class Encoded:
    """Encoded rows in the order of the data, and what was done to them."""

    examples: Examples
    report: Report


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
    ids, supervised, labels, signals = array("i"), bytearray(), array("d"), bytearray()
    ends, targets, rows, label_ends = array("q"), array("i"), array("q"), array("q")
    signal_ends, units = array("q"), array("i")
    for row, example in examples:
        ids += example.ids
        supervised += example.supervised
        labels.extend(example.labels)
        ends.append(len(ids))
        targets.append(example.targets)
        rows.append(row)
        label_ends.append(len(labels))
        signals += example.signal
        signal_ends.append(len(signals))
        units.append(example.units)
    columns = (ids, supervised, ends, targets, rows, labels, label_ends, signals, signal_ends, units)
    kept = dict(zip([*ARRAYS, *LABELS, *SIGNALS], columns, strict=True))
    return _examples(kept if signals else {name: kept[name] for name in ARRAYS | LABELS})


def _examples(columns: dict[str, Any]) -> Examples:
    import numpy

    kinds = {name: kind for name, kind in (ARRAYS | LABELS | SIGNALS).items() if name in columns}
    arrays = {name: numpy.asarray(memoryview(columns[name])).view(kind) for name, kind in kinds.items()}
    ends, label_ends = arrays["ends"], arrays["label_ends"]
    table = {
        "start": numpy.concatenate([[0], ends])[:-1],
        "stop": ends,
        "label_start": numpy.concatenate([[0], label_ends])[:-1],
        "label_stop": label_ends,
        "targets": arrays["targets"],
        "row": arrays["rows"],
    }
    if "signals" in arrays:
        table["signal_start"] = numpy.concatenate([[0], arrays["signal_ends"]])[:-1]
        table |= {"signal_stop": arrays["signal_ends"], "units": arrays["costs"]}
    return Examples(arrays["ids"], arrays["supervised"], arrays["labels"], table, arrays.get("signals"))


def collect(
    examples: Iterable[tuple[int, Example]], report: Callable[[int, int, int], Report], folder: Path | None = None
) -> Encoded:
    """Gather examples as they are made, in memory or in a folder that appears whole or not at all.

    Parameters
    ----------
    examples : iterable of (int, Example)
        Row numbers and what became of them.
    report : callable
        Gives the report once all examples are made, from their number, their tokens and their supervised tokens.
    folder : Path, optional
        Where they are written; by default they stay in memory.

    Returns
    -------
    Encoded
        Mapped from `folder` where there is one.

    Raises
    ------
    StoreError
        When the folder cannot be written.
    """
    count = tokens = supervised = 0

    def counted() -> Iterator[tuple[int, Example]]:
        nonlocal count, tokens, supervised
        for row, example in examples:
            count += 1
            tokens += len(example.ids)
            supervised += example.supervised.count(1)
            yield row, example

    if folder is None:
        return Encoded(gather(counted()), report(count, tokens, supervised))
    with atomic_folder(folder, overwrite=True) as staging:
        write(staging, counted())
        save_report(staging, report(count, tokens, supervised))
        # Mapped before it gets its name: another process may put the same there at any moment.
        encoded = load(staging)
        if encoded is None:
            raise StoreError(f"cannot read back what was written for {folder}; check the disk or choose another folder")
    return encoded


def cached(
    root: Path, fingerprint: str, tokenizer: Any, settings: dict[str, Any], encode: Callable[[Path], Encoded]
) -> tuple[str, Encoded]:
    """Find rows that were encoded before, or encode them and keep them for the next time.

    Parameters
    ----------
    root : Path
        Folder of all that is kept.
    fingerprint, tokenizer, settings
        All that has an influence, as for :func:`key`.
    encode : callable
        Encodes the rows into the folder that it is given, by :func:`collect`.

    Returns
    -------
    tuple of str and Encoded
        The name of the folder in `root`, and what is in it.
    """
    name = key(fingerprint, tokenizer, settings)
    if encoded := load(root / name):
        return name, encoded
    remove_leftovers(root)
    return name, encode(root / name)


def write(folder: Path, examples: Iterable[tuple[int, Example]]) -> None:
    """Write examples to a folder, a few thousand at a time.

    Parameters
    ----------
    folder : Path
        Where the ``.npy`` files go.
    examples : iterable of (int, Example)
        Row numbers and what became of them.
    """
    import numpy
    from numpy.lib import format

    def header(file: Any, kind: str, length: int) -> None:
        format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": (length,)})

    kinds = dict(ARRAYS)
    remaining, written = iter(examples), dict.fromkeys([*ARRAYS, *SIGNALS], 0)
    labels, label_ends = array("d"), array("q")  # few beside the tokens: they stay in memory until the end
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        while len(part := gather(islice(remaining, CHUNK))) or not files:
            label_ends.extend((part._table["label_stop"] + len(labels)).tolist())
            labels.extend(part._labels.tolist())
            ends = part._table["stop"] + written["ids"]
            columns = [part._ids, part._supervised, ends, part._table["targets"], part.rows]
            if part._signals is not None:
                kinds = ARRAYS | SIGNALS
                columns += [part._signals, part._table["signal_stop"] + written["signals"], part._table["units"]]
            for (name, kind), column in zip(kinds.items(), columns, strict=True):
                if name not in files:
                    files[name] = stack.enter_context((folder / f"{name}.npy").open("wb"))
                    header(files[name], kind, 0)  # leaves room for any length
                files[name].write(column.astype(kind, copy=False).data)
                written[name] += len(column)
        for name, file in files.items():
            file.seek(0)
            header(file, kinds[name], written[name])
    if labels:
        for (name, kind), numbers in zip(LABELS.items(), (labels, label_ends), strict=True):
            numpy.save(folder / f"{name}.npy", numpy.asarray(numbers, kind))


def save_report(folder: Path, report: Report) -> None:
    """Write a report beside its examples."""
    (folder / "report.json").write_text(json.dumps(asdict(report)), encoding="utf-8")


def load(folder: Path) -> Encoded | None:
    """Map examples into memory.

    Parameters
    ----------
    folder : Path
        What :func:`collect` filled.

    Returns
    -------
    Encoded or None
        None if there is no such folder or something in it is damaged.
    """
    import numpy

    labelled, signalled = (any((folder / f"{name}.npy").exists() for name in some) for some in (LABELS, SIGNALS))
    try:
        kinds = ARRAYS | (LABELS if labelled else {}) | (SIGNALS if signalled else {})
        columns = {name: _mapped(folder / f"{name}.npy") for name in kinds}
        stored = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        stored |= {name: tuple(told) for name, told in stored.items() if isinstance(told, list)}
        report = Report(**stored)
        whole = len(columns["ends"]) == report.examples and columns["ends"][-1] == report.tokens
        whole &= len(columns["ids"]) == len(columns["supervised"]) == report.tokens
        if not labelled:
            columns |= {"labels": numpy.zeros(0, "<f8"), "label_ends": numpy.zeros(report.examples, "<i8")}
        whole &= len(columns["label_ends"]) == report.examples
        whole &= columns["label_ends"][-1] == len(columns["labels"])
        if signalled:
            whole &= len(columns["signal_ends"]) == len(columns["costs"]) == report.examples
            whole &= columns["signal_ends"][-1] == len(columns["signals"])
        return Encoded(_examples(columns), report) if whole else None
    except (OSError, ValueError, TypeError, LookupError):
        return None


def _mapped(file: Path) -> Any:
    """An array on disk; one without entries cannot be mapped."""
    import numpy

    return numpy.load(file, mmap_mode=None if file.stat().st_size <= EMPTY else "r", allow_pickle=False)


def key(fingerprint: str, tokenizer: Any, settings: dict[str, Any]) -> str:
    """Name examples by everything that they depend on.

    Parameters
    ----------
    fingerprint : str
        Of the rows.
    tokenizer : transformers.PreTrainedTokenizerBase or Preprocess
        The model's tokenizer, or how images are prepared for it.
    settings : dict
        Whatever else has an influence; what JSON can hold.

    Returns
    -------
    str
        SHA-256, 64 hexadecimal digits.
    """
    if not hasattr(tokenizer, "get_vocab"):
        told = json.dumps([VERSION, fingerprint, repr(tokenizer), settings], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    core = _core(backend.to_str()) if backend else {"class": type(tokenizer).__name__, **tokenizer.get_vocab()}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    parts = [VERSION, fingerprint, core, tokenizer.chat_template, special, tokenizer.all_special_ids, settings]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=1)  # of a megabyte or more, and asked for by the check and the encoding of the same rows
def _core(backend: str) -> dict[str, Any]:
    core: dict[str, Any] = json.loads(backend)
    for passing in ("truncation", "padding"):  # switched on and off by those who use it
        core.pop(passing, None)
    return core

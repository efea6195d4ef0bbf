"""Data sets from wherever the user keeps them, as rows that become dicts only while they are read.

A name is looked up in this order: a variable of the notebook, a built-in data set, a file, the hub.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import sys
import threading
from array import array
from codecs import BOM_UTF8 as BOM
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

from peft_nb.data import Rows, plain, samples, support_desk
from peft_nb.errors import DataError, nearest

# One entry a data set: its name and what reads it, as {"train": rows} with "eval": rows where some are held out.
BUILTIN: dict[str, Callable[[], dict[str, list[dict[str, str]]]]] = {
    "support-desk": support_desk.load,
    **{name: partial(samples.load, name) for name in samples.NAMES},
}

# The first of these names that a data set has is its held-out split; a test split is touched last.
HELD_OUT = ("validation", "valid", "val", "dev", "eval", "test")

ACCEPTED = "accepted are a DataFrame, a list of dicts, a datasets.Dataset or DatasetDict"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_SECONDS = 3.0
IN_MEMORY = "(in memory)"  # what data without a name are called


@dataclass(frozen=True, eq=False)
class Source:
    """A data set that was found: its rows, and where they came from in words."""

    name: str
    train: Rows
    eval: Rows | None
    origin: str

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the content, equal wherever and in whatever container the same rows are kept."""
        digest = hashlib.sha256()
        for rows in (self.train, self.eval or ()):
            for row in rows:
                digest.update(json.dumps(row, sort_keys=True, default=lambda v: str(plain(v))).encode())
            digest.update(b"\x00")
        return digest.hexdigest()


def read(data: object, namespace: Mapping[str, Any] | None = None) -> Source:
    """Find a data set and give its rows.

    Parameters
    ----------
    data : DataFrame, list of dict, datasets.Dataset, datasets.DatasetDict, path or str
        The data, or its name. A str is a variable of `namespace`, a built-in data set, a csv, tsv, json,
        jsonl or parquet file, or a data set on the hub: the first of these that exists.
    namespace : mapping, optional
        The notebook's variables.

    Returns
    -------
    Source
        Training rows, and held-out rows where the data set has a split of one of the names in `HELD_OUT`.

    Raises
    ------
    DataError
        When nothing of this name exists, or what exists cannot be read.
    """
    if isinstance(data, os.PathLike):
        return _read_file(Path(data))
    if not isinstance(data, str):
        return _source(IN_MEMORY, data, type(data).__name__, "the data")
    variables = namespace or {}
    if data in variables:
        value = variables[data]
        if isinstance(value, (str, os.PathLike)):
            return read(value)
        return _source(data, value, f"{type(value).__name__} `{data}`", f"`{data}`")
    if data in BUILTIN:
        return _source(data, BUILTIN[data](), f"built-in {data}", data)
    path = Path(os.path.expanduser(data))
    if os.path.exists(path):
        return _read_file(path)
    looked = f"looked for a variable, a built-in ({', '.join(BUILTIN)}), a file"
    if HUB_NAME.fullmatch(data) and path.suffix.lower() not in READERS:
        splits = _read_hub(data, f"no data named {data!r}: {looked}")
        return _source(data, splits, f"hub data set {data}", f"hub data set {data}")
    siblings = map(str, _readable(path.parent)) if path.parent.is_dir() else ()
    known = (*data_variables(variables), *BUILTIN, *siblings)
    hint = nearest(data, known) or "; a hub data set is written owner/name"
    raise DataError(f"no data named {data!r}: {looked}{hint}")


def at_hand(name: str, namespace: Mapping[str, Any]) -> bool:
    """Tell whether :func:`read` finds a name without asking the hub, or does not find it at all."""
    hub = HUB_NAME.fullmatch(name) and Path(name).suffix.lower() not in READERS
    return not hub or name in namespace or os.path.exists(os.path.expanduser(name))


def data_variables(namespace: Mapping[str, Any]) -> list[str]:
    """Name the variables that hold data, importing nothing.

    Parameters
    ----------
    namespace : mapping
        The notebook's variables.

    Returns
    -------
    list of str
        Sorted names of data frames, data sets and non-empty lists of dicts; those beginning with ``_`` are
        left out.
    """
    tables = _classes("pandas", "DataFrame") + _classes("datasets", "Dataset", "DatasetDict")

    def holds_data(value: object) -> bool:
        rows = isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)
        return rows or isinstance(value, tables)

    return sorted(name for name, value in namespace.items() if name[:1] != "_" and holds_data(value))


def _classes(module: str, *names: str) -> tuple[type, ...]:
    """Classes of a module that is already imported: an object of theirs cannot exist before."""
    loaded = sys.modules.get(module)
    return tuple(getattr(loaded, name) for name in names if hasattr(loaded, name))


def _source(name: str, data: object, origin: str, what: str) -> Source:
    """Split `data` into training and held-out rows; `what` names it in errors, `origin` in reports."""
    splits = data if isinstance(data, Mapping) else {"train": data}
    if "train" not in splits:
        keys = ", ".join(map(repr, splits))
        fix = "pass the part to train on, or pandas.DataFrame(…) of a dict of columns"
        raise DataError(f"{what} is a {type(data).__name__} of {keys} without a split 'train'; {fix}")
    held_out = next((split for split in HELD_OUT if split in splits), "")
    train = _table(splits["train"], what)
    held = _table(splits[held_out], what) if held_out else ()
    if not len(train):
        raise DataError(f"{what} has no rows; there is nothing to train on")
    origin += f", {len(train):,} row{'s' if len(train) > 1 else ''}"
    origin += f" and {len(held):,} held-out (split {held_out!r})" if held else ""
    return Source(name, train, held or None, origin)


def _table(data: object, what: str) -> Rows:
    if isinstance(data, Rows):
        return data
    if isinstance(data, _classes("pandas", "DataFrame")):
        return _frame_rows(data, what)
    if isinstance(data, _classes("datasets", "Dataset")):
        return _dataset_rows(data.with_format(None))  # type: ignore[attr-defined]
    if isinstance(data, (list, tuple)):
        return _list_rows(list(data), what)
    kind = f"{type(data).__module__}.{type(data).__qualname__}".removeprefix("builtins.")
    fix = "; pass its .to_pandas()" if hasattr(data, "to_pandas") else ""
    raise DataError(f"{what} is a {kind}; {ACCEPTED}{fix}")


def _dataset_rows(table: Any) -> Rows:
    """Rows of a Dataset; a class that it keeps as a number gets its name back."""
    classes: dict[str, list[str]] = {}
    for column, feature in table.features.items():
        inner = getattr(feature, "feature", feature)  # of a list of classes
        if type(inner).__name__ == "ClassLabel":
            classes[column] = inner.names

    def named(names: list[str], cell: Any) -> Any:
        if isinstance(cell, list):
            return [named(names, one) for one in cell]
        return None if cell is None or cell < 0 else names[cell]  # -1 is a class that is not known

    def fetch(start: int, stop: int) -> Iterator[Sequence[Any]]:
        columns = table[start:stop]
        for column, names in classes.items():
            columns[column] = [named(names, cell) for cell in columns[column]]
        return zip(*columns.values(), strict=True)

    return Rows(table.column_names, len(table), fetch)


def _frame_rows(data: Any, what: str) -> Rows:
    names = [str(column) for column in data.columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{what} has two columns named {twice!r}; rename one of them")
    # A shallow copy: what the notebook does to the frame while a run reads it does not reach the run.
    frame = data.copy(deep=False)
    return Rows(names, len(frame), lambda a, b: frame.iloc[a:b].itertuples(index=False, name=None))


def _list_rows(rows: list[Any], what: str) -> Rows:
    columns: dict[Any, None] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            place = f"{what}: row {number} (counting from 0)"
            fix = "write [{'text': text} for text in …] for plain texts"
            raise DataError(f"{place} is a {type(row).__name__}, not a dict; {fix}")
        columns.update(dict.fromkeys(row))

    def fetch(start: int, stop: int) -> Iterator[list[Any]]:
        return ([row.get(column) for column in columns] for row in rows[start:stop])

    return Rows([str(column) for column in columns], len(rows), fetch)


def _read_file(path: Path) -> Source:
    kinds = ", ".join(suffix[1:] for suffix in READERS)
    if path.is_dir():
        inside = [f"name a file in it, such as {file}" for file in _readable(path)]
        raise DataError(f"{path} is a folder; {(inside or ['pass a file, or a data set you loaded'])[0]}")
    if path.suffix.lower() not in READERS:
        raise DataError(f"{path} is none of {kinds}; read it with pandas and pass the DataFrame")
    try:
        content = READERS[path.suffix.lower()](path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    return _source(path.stem, content, str(path), str(path))


def _readable(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in READERS)


def _read_text(path: Path) -> str:
    return _decoded(path.read_bytes(), path).removeprefix("\ufeff")


def _decoded(content: bytes, path: Path, start: int = 0, line: int = 1) -> str:
    """Decode what begins at byte `start`, in line `line`, of a file."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        place = f"byte {start + error.start:,} (line {line}) is 0x{content[error.start]:02x}"
        raise DataError(f"{path} is not UTF-8: {place}; save it as UTF-8 (Excel: 'CSV UTF-8')") from None


def _read_csv(path: Path) -> Rows:
    text = _read_text(path)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    csv.field_size_limit(2**31 - 1)  # the default refuses documents over 131,072 characters
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    line = 1
    try:
        header = next(reader, [])
        for cells in reader:
            if cells and len(cells) != len(header):
                fix = f"put quotes around text that contains {delimiter!r} or line breaks"
                counts = f"{len(cells)} fields where the header has {len(header)}"
                raise DataError(f"{path} line {line + 1}: {counts}; {fix}")
            rows += [cells] if cells else []
            line = reader.line_num
    except csv.Error as error:
        fix = 'write a quote inside quoted text as "" and close every quote'
        raise DataError(f"{path} line {line + 1}: {error}; {fix}") from None
    if len(set(header)) < len(header):
        raise DataError(f"{path} line 1: two columns have the same name; rename one of them")
    return Rows(header, len(rows), lambda a, b: rows[a:b])


def _read_json(path: Path) -> object:
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one object a line under the name of .json, as many tools write it
            return _read_jsonl(path)
        place = f"{path} line {error.lineno} column {error.colno}"
        raise DataError(f"{place}: {error.msg}; mend it there, or write it with json.dump") from None
    return content["data"] if isinstance(content, dict) and "data" in content else content


def _read_jsonl(path: Path) -> Rows:
    """Look at every line once, and keep only where each begins: the file may be larger than the memory."""
    starts, end = array("q"), 0
    columns: dict[str, None] = {}
    with path.open("rb") as file:
        state = _state(file)
        for number, line in enumerate(file, start=1):
            mark = len(BOM) if number == 1 and line.startswith(BOM) else 0
            text = _decoded(line[mark:], path, end + mark, number)
            if text.strip():
                try:
                    row = json.loads(text)
                    problem = None if isinstance(row, dict) else f"a {type(row).__name__}, not an object"
                except json.JSONDecodeError as error:
                    problem = f"{error.msg} at column {error.colno}"
                if problem:
                    raise DataError(f"{path} line {number}: {problem}; write one JSON object a line")
                starts.append(end + mark)
                columns.update(dict.fromkeys(row))
            end += len(line)
    starts.append(end)

    def fetch(start: int, stop: int) -> Iterator[list[Any]]:
        try:
            with path.open("rb") as file:
                file.seek(starts[start])
                content, same = file.read(starts[stop] - starts[start]), _state(file) == state
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
        if not same:
            raise DataError(f"{path} was changed while it was in use; start again")
        # Not splitlines(): that also splits at U+2028 and its like, which JSON allows inside a string.
        rows = (json.loads(line) for line in content.decode("utf-8").split("\n") if line.strip())
        return ([row.get(column) for column in columns] for row in rows)

    return Rows(list(columns), len(starts) - 1, fetch)


def _state(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read_parquet(path: Path) -> Rows:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path} is not a whole parquet file: {reason}; write it again") from None

    def fetch(start: int, stop: int) -> Iterator[tuple[Any, ...]]:
        return zip(*(column.to_pylist() for column in table[start:stop].columns), strict=True)

    return Rows(table.column_names, len(table), fetch)


READERS: dict[str, Callable[[Path], object]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _read_hub(name: str, missing: str) -> object:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RepositoryNotFoundError

    outcome: list[Exception | None] = []

    def ask() -> None:
        try:
            HfApi(endpoint=constants.ENDPOINT).dataset_info(name, timeout=HUB_SECONDS)
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    if not constants.HF_HUB_OFFLINE:  # offline, load_dataset looks into its cache at once
        # In a thread, since no timeout covers the resolution of the hub's name.
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(HUB_SECONDS)
        problem = outcome[0] if outcome else TimeoutError(f"no answer within {HUB_SECONDS:g} s")
        if isinstance(problem, RepositoryNotFoundError):
            raise DataError(f"{missing}, the hub")
        if problem:
            reason = str(problem).partition("\n")[0]
            fix = "pass a file or a variable, or set HF_HUB_OFFLINE=1 to use the hub's cache"
            raise DataError(f"{missing}; the hub cannot be asked ({reason}); {fix}")
    try:
        import datasets

        return datasets.load_dataset(name)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        fix = "load it with datasets.load_dataset(…) in a cell and pass the variable"
        raise DataError(f"hub data set {name} cannot be loaded: {reason}; {fix}") from None

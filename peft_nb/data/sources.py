"""Data sets from wherever the user keeps them, as rows that become dicts only while they are read.

A name is looked up in this order: a variable of the notebook, a built-in data set, a file, the hub.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from peft_nb.data import Rows, brief_answers, digits, files, samples, spoken_names, support_desk
from peft_nb.data.cells import numbers, of_arrow, of_frame
from peft_nb.data.conversations import style
from peft_nb.data.files import CONVERSATIONS, conversation, is_file_name, row_shown
from peft_nb.data.images.picture import digest
from peft_nb.errors import DataError, nearest

# One entry a data set: its name and what reads it, as {"train": rows} with "eval": rows where some are held out.
BUILTIN: dict[str, Callable[[], Mapping[str, list[Any]]]] = {
    "support-desk": support_desk.load,
    "brief-answers": brief_answers.load,
    "brief-answers-rated": brief_answers.load_rated,
    "digits": digits.load,
    "spoken-names": spoken_names.load,
    **{name: partial(samples.load, name) for name in samples.NAMES},
}

# The first of these names that a data set has is its evaluation split; a test split is touched last.
HELD_OUT = ("validation", "valid", "val", "dev", "eval", "test")

ACCEPTED = "accepted are a DataFrame, a list of dicts, a dict of lists, a datasets.Dataset or DatasetDict"
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
                digest.update(json.dumps(row, sort_keys=True, default=_told).encode())
            digest.update(b"\x00")
        return digest.hexdigest()


def _told(cell: Any) -> str:
    """What JSON cannot hold: of an image in memory its hash."""
    return digest(cell) if isinstance(cell, bytes) or hasattr(cell, "tobytes") else str(cell)


def read(data: object, namespace: Mapping[str, Any] | None = None) -> Source:
    """Find a data set and give its rows.

    Parameters
    ----------
    data : DataFrame, list of dict, dict of lists, datasets.Dataset, datasets.DatasetDict, path or str
        The data, or its name. A list may hold conversations, each a list of messages, which become the column
        ``messages``; a dict holds columns, or splits of which one is called ``train``. A str is a variable of
        `namespace`, a built-in data set, a file, or a data set on the hub: the first of these that exists. A folder
        or zip of images is read with the names of its folders as labels, a folder of clips with their texts. Files are
        csv (with commas, semicolons, tabs or bars), tsv, json, jsonl, ndjson, parquet, and txt or md, of which each
        paragraph is a row in the column ``text``.
    namespace : mapping, optional
        The notebook's variables.

    Returns
    -------
    Source
        Training rows, and evaluation rows where the data set has a split of one of the names in `HELD_OUT`.

    Raises
    ------
    DataError
        When nothing of this name exists, or what exists cannot be read.
    """
    if isinstance(data, os.PathLike):
        return _file(Path(data))
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
        return _file(path)
    looked = f"looked for a variable, a built-in ({', '.join(BUILTIN)}), a file"
    if HUB_NAME.fullmatch(data) and not is_file_name(data):
        splits = _read_hub(data, f"no data named {data!r}: {looked}")
        return _source(data, splits, f"hub data set {data}", f"hub data set {data}")
    siblings = map(str, files.readable(path.parent)) if path.parent.is_dir() else ()
    known = (*data_variables(variables), *BUILTIN, *siblings)
    hint = nearest(data, known) or "; a hub data set is written owner/name"
    raise DataError(f"no data named {data!r}: {looked}{hint}")


def at_hand(name: str, namespace: Mapping[str, Any]) -> bool:
    """Tell whether :func:`read` finds a name without asking the hub, or does not find it at all."""
    hub = HUB_NAME.fullmatch(name) and not is_file_name(name)
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
        Sorted names of data frames, data sets and non-empty lists of dicts or of conversations; those beginning
        with ``_`` are left out.
    """
    tables = _classes("pandas", "DataFrame") + _classes("datasets", "Dataset", "DatasetDict")

    def holds_data(value: object) -> bool:
        rows = isinstance(value, list) and bool(value) and (isinstance(value[0], Mapping) or conversation(value[0]))
        return rows or isinstance(value, tables)

    return sorted(name for name, value in namespace.items() if name[:1] != "_" and holds_data(value))


def _classes(module: str, *names: str) -> tuple[type, ...]:
    """Classes of a module that is already imported: an object of theirs cannot exist before."""
    loaded = sys.modules.get(module)
    return tuple(getattr(loaded, name) for name in names if hasattr(loaded, name))


def _source(name: str, data: object, origin: str, what: str) -> Source:
    """Split `data` into training and evaluation rows; `what` names it in errors, `origin` in reports."""
    splits = data if isinstance(data, Mapping) and "train" in data else {"train": data}
    held_out = next((split for split in HELD_OUT if split in splits), "")
    train = _table(splits["train"], what)
    held = _table(splits[held_out], what) if held_out else ()
    if not len(train):
        raise DataError(f"{what} has no rows; there is nothing to train on")
    origin += f", {len(train):,} row{'s' if len(train) > 1 else ''}"
    origin += f" and {len(held):,} for evaluation (split {held_out!r})" if held else ""
    origin += f" ({train.note})" if train.note else ""
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
    if isinstance(data, Mapping):
        return _list_rows(_dicts(data, what), what)
    kind = f"{type(data).__module__}.{type(data).__qualname__}".removeprefix("builtins.")
    passed = {
        "to_pandas": "its .to_pandas()",
        "toPandas": "its .toPandas()",
        "to_frame": "its .to_frame('text')",
        "__next__": "list(…) of it",
    }
    fix = next((f"; pass {form}" for method, form in passed.items() if hasattr(data, method)), "")
    raise DataError(f"{what} is a {kind}; {ACCEPTED}{fix}")


def _dicts(data: Mapping[Any, Any], what: str) -> list[Any]:
    """Read a dict of columns, as lists or as pandas writes them, or of one list of rows."""
    cells = list(data.values())
    if cells and all(isinstance(cell, Mapping) and all(str(key).isdecimal() for key in cell) for cell in cells):
        places = dict.fromkeys(place for column in cells for place in column)
        return [{name: column.get(place) for name, column in data.items()} for place in places]
    lists = {name: cell.tolist() if hasattr(cell, "tolist") else cell for name, cell in data.items()}
    tables = [name for name, cell in lists.items() if conversation(cell)]
    parts = [name for name in tables if name in HELD_OUT or style(lists[name])]  # splits, or one conversation alone
    if not parts and len(lists) == len(tables) == 1:
        return list(lists[tables[0]])
    if not parts and all(isinstance(cell, list | tuple) for cell in lists.values()):
        lengths = {name: len(cell) for name, cell in lists.items()}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{name!r} has {length:,}" for name, length in lengths.items())
            raise DataError(f"{what} is a dict of columns of different lengths: {counts}; give each as many")
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    keys = ", ".join(map(repr, data))
    fix = "pass the part to train on, or a list of it if it is one row"
    if all(isinstance(cell, Mapping) for cell in cells):
        fix = f"pass the part to train on, or list({_variable(what)}.values()) if each is a row"
    raise DataError(f"{what} is a {type(data).__name__} of {keys} without a split 'train'; {fix}")


def _dataset_rows(table: Any) -> Rows:
    """Rows of a Dataset; a class that it keeps as a number gets its name back."""
    classes: dict[str, list[str]] = {}
    for column, feature in table.features.items():
        if type(feature).__name__ in (
            "Image",
            "Audio",
        ):  # decoded when a model is to see them, not all rows of a block at once
            table = table.cast_column(column, type(feature)(decode=False))
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

    return Rows(table.column_names, len(table), fetch, of_arrow(table.data))


def _frame_rows(data: Any, what: str) -> Rows:
    names = [str(column) for column in data.columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{what} has two columns named {twice!r}; rename one of them")
    # A shallow copy: what the notebook does to the frame while a run reads it does not reach the run.
    frame = data.copy(deep=False)
    doubt = note = ""
    if shown := row_shown(names):
        fix = "read its file with pandas.read_csv(…, header=None, names=['prompt', 'completion'])"
        doubt = f"{what} has names of columns that look like a row ({shown!r}); {fix}, or say columns={{role: column}}"
    if index := ", ".join(repr(name) for name in frame.index.names if name is not None and str(name) not in names):
        note = f"without its index {index}: .reset_index() makes it a column"
        doubt = doubt or f"{what} has {index} as its index, not as a column; pass {_variable(what)}.reset_index()"
    return Rows(
        names,
        len(frame),
        lambda a, b: frame.iloc[a:b].itertuples(index=False, name=None),
        of_frame(frame),
        note=note,
        doubt=doubt,
    )


def _list_rows(rows: list[Any], what: str) -> Rows:
    note = CONVERSATIONS if any(map(conversation, rows)) else ""
    rows = [{"messages": row} if conversation(row) else row for row in rows] if note else rows
    columns: dict[Any, None] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            place = f"{what}: row {number} (counting from 0)"
            raise DataError(f"{place} is a {type(row).__name__}, not a dict; {_as_rows(row, what)}")
        columns.update(dict.fromkeys(row))

    def fetch(start: int, stop: int) -> Iterator[list[Any]]:
        return ([row.get(column) for column in columns] for row in rows[start:stop])

    converters = {str(column): numbers(row.get(column) for row in rows) for column in columns}
    return Rows([str(column) for column in columns], len(rows), fetch, converters, note=note)


def _as_rows(row: object, what: str) -> str:
    """Say how to write a list whose rows are such as this one as dicts."""
    name = _variable(what)
    if isinstance(row, list | tuple) and len(row) == 2:
        return f"write [{{'prompt': prompt, 'completion': answer}} for prompt, answer in {name}] for pairs of texts"
    return f"write [{{'text': text}} for text in {name}] for plain texts"


def _variable(what: str) -> str:
    return what.strip("`") if what.startswith("`") else "…"


def _file(path: Path) -> Source:
    return _source(path.stem, files.read(path), str(path), str(path))


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

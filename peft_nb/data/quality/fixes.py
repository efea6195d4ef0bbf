"""Fixed tables: cells replaced, rows dropped, and a list of both; the original stays as it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from peft_nb.data import Rows
from peft_nb.data.layouts import Layout
from peft_nb.data.quality import characters, pii, secrets
from peft_nb.data.quality.findings import FIXED_BY_DEFAULT, WHOLE, one_line, veiled

Patches = dict[int, dict[str, Any]]  # row → column → new cell


@dataclass(frozen=True)
class Change:
    """One thing that was fixed: the row's number in the original, and what was done to it."""

    row: int
    what: str

    def __str__(self) -> str:
        return f"row {self.row}: {self.what}"


_lists: dict[str, list[Change]] = {}


def remember(fingerprint: str, changes: list[Change]) -> None:
    """Keep in mind what was changed to make a data set, so that a run on it can store the list.

    Parameters
    ----------
    fingerprint : str
        Of the fixed data set, :attr:`peft_nb.data.sources.Source.fingerprint`: after another change it is not known.
    changes : list of Change
        What was done.
    """
    _lists[fingerprint] = changes


def remembered(fingerprint: str) -> list[Change]:
    """Give the list of changes that made a data set in this process; empty for any other data set."""
    return _lists.get(fingerprint, [])


@dataclass(frozen=True)
class Fixed:
    """A table after fixing, in terms of the original.

    Attributes
    ----------
    kept : list of int
        Numbers of the rows that are left, ascending.
    patches : dict
        New cells by row and column.
    changes : list of Change
        All that was done, by row.
    dropped : dict of int to str
        The kind of finding for which a row was dropped.
    """

    kept: list[int]
    patches: Patches
    changes: list[Change]
    dropped: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Edit:
    """One place of a row before and after fixing, shortened, with personal data and secrets masked.

    Attributes
    ----------
    row : int
        Its number in the original.
    column : str
        Where it is; empty for a row that is dropped.
    before, after : str
        What stood there, and what stands there now; nothing after it for a row that is dropped.
    """

    row: int
    column: str
    before: str
    after: str


NEAR = 3  # words shown on both sides of what was changed


def edits(rows: Sequence[Mapping[str, Any]], fixed: Fixed) -> Iterator[Edit]:
    """Show every fix before and after, row by row.

    Parameters
    ----------
    rows : sequence of mapping
        The original.
    fixed : Fixed
        What was done to it.

    Yields
    ------
    Edit
        By row; of a text with several changes one for each.
    """
    for number in sorted({change.row for change in fixed.changes}):
        row = rows[number]
        if number in fixed.patches:
            for column, cell in fixed.patches[number].items():
                for old, new in zip(strings(row.get(column)), strings(cell), strict=True):
                    for before, after in _differences(old, new) if old != new else ():
                        yield Edit(number, column, before, after)
        else:
            yield Edit(number, "", one_line(veiled("\n".join(strings(dict(row)))), WHOLE), "")


def _differences(old: str, new: str) -> list[tuple[str, str]]:
    """Where two texts differ, with some words around; masked, or a saved notebook would hold what was redacted."""
    old, new = veiled(old), veiled(new)
    before, after = (re.findall(r"\S+|\s+", text) for text in (old, new))
    found = []
    for group in SequenceMatcher(None, before, after, autojunk=False).get_grouped_opcodes(2 * NEAR):
        places = before[group[0][1] : group[-1][2]], after[group[0][3] : group[-1][4]]
        found.append((one_line("".join(places[0]), WHOLE), one_line("".join(places[1]), WHOLE)))
    return found or [(one_line(old, WHOLE), one_line(new, WHOLE))]


def strings(cell: Any) -> Iterator[str]:
    """Go through all texts in a cell, whatever lists and mappings hold them."""
    if isinstance(cell, str):
        yield cell
    elif isinstance(cell, Mapping | list | tuple):
        for part in cell.values() if isinstance(cell, Mapping) else cell:
            yield from strings(part)


def altered(cell: Any, change: Callable[[str], str]) -> Any:
    """Rebuild a cell with all its texts changed."""
    if isinstance(cell, str):
        return change(cell)
    if isinstance(cell, Mapping):
        return {key: altered(part, change) for key, part in cell.items()}
    if isinstance(cell, list | tuple):
        return type(cell)(altered(part, change) for part in cell)
    return cell


def overlaid(rows: Sequence[Mapping[str, Any]], patches: Patches) -> Rows:
    """Lay new cells over a table, whose rows are still read only when they are needed.

    Parameters
    ----------
    rows : Rows or sequence of mapping
        The original.
    patches : dict
        New cells by row and column.

    Returns
    -------
    Rows
        As many rows in the same order.
    """
    columns = rows.columns if isinstance(rows, Rows) else tuple(dict.fromkeys(name for row in rows for name in row))

    def fetch(start: int, stop: int) -> Iterator[list[Any]]:
        for number, row in enumerate(rows[start:stop], start):
            new = patches.get(number, {})
            yield [new[column] if column in new else row.get(column) for column in columns]

    return Rows(columns, len(rows), fetch)


def left(rows: Rows, fixed: Fixed) -> Rows:
    """The rows that are left, with their new cells; they too are read only when they are needed."""
    whole = overlaid(rows, fixed.patches)

    def fetch(start: int, stop: int) -> Iterator[list[Any]]:
        kept = fixed.kept[start:stop]
        first = kept[0]
        block = whole[first : kept[-1] + 1]
        return ([block[number - first][column] for column in whole.columns] for number in kept)

    return Rows(whole.columns, len(fixed.kept), fetch)


def rebuilt(data: Any, rows: Rows, fixed: Fixed) -> Any:
    """Make a fixed data set of the kind that was given.

    Parameters
    ----------
    data : DataFrame, Dataset, DatasetDict, list of dict, mapping of splits, or other
        The original; it is not touched.
    rows : Rows
        Its training rows as they were read.
    fixed : Fixed
        What was done to them.

    Returns
    -------
    object
        A DataFrame with its index, a Dataset with its features, splits with the others unchanged, a list of dicts
        with their own keys; for anything else, such as a file, a list of dicts.
    """
    if isinstance(data, Mapping) and "train" in data:
        splits: Any = type(data)
        return splits({**data, "train": rebuilt(data["train"], rows, fixed)})
    kind = (type(data).__module__.partition(".")[0], type(data).__name__)
    if kind == ("pandas", "DataFrame"):
        return _frame(data, fixed)
    if kind == ("datasets", "Dataset"):
        table = data.with_format(None)
        if fixed.patches:
            whole = list(overlaid(rows, fixed.patches))
            table = type(data).from_list(whole, features=data.features)
        return table.select(fixed.kept)
    if isinstance(data, list | tuple) and all(isinstance(row, Mapping) for row in data):
        return [_patched(data[number], fixed.patches.get(number, {})) for number in fixed.kept]
    kept = set(fixed.kept)
    return [row for number, row in enumerate(overlaid(rows, fixed.patches)) if number in kept]


def _patched(row: Mapping[Any, Any], patch: Mapping[str, Any]) -> dict[Any, Any]:
    return {key: patch.get(str(key), cell) for key, cell in row.items()}


def _frame(frame: Any, fixed: Fixed) -> Any:
    copy = frame.copy()
    for place, name in enumerate(map(str, frame.columns)):
        cells = {number: patch[name] for number, patch in fixed.patches.items() if name in patch}
        if cells:
            column = copy.iloc[:, place].astype(object)  # a category or a number cannot hold any text
            for number, cell in cells.items():
                column.iat[number] = cell
            strings = str(frame.dtypes.iloc[place]) in ("str", "string")
            copy.isetitem(place, column.astype(frame.dtypes.iloc[place]) if strings else column)
    return copy.iloc[fixed.kept]


def repaired(
    row: Mapping[str, Any],
    layout: Layout,
    spellings: Mapping[str, str],
    kinds: Container[str] = FIXED_BY_DEFAULT,
    allow: Iterable[str] = (),
) -> tuple[dict[str, Any], list[str]]:
    """Repair what is of some kinds in the texts of one row; gives the new cells and what was done."""
    done: dict[str, None] = {}
    said: list[str] = []
    letters = "encoding" in kinds or "control" in kinds  # together: of broken encoding, control characters are a part
    finders: list[Callable[[str], list[pii.Match]]] = []
    if "secret" in kinds:
        finders.append(lambda text: secrets.secrets(text, "\n".join(said), allow))
    if "personal" in kinds and pii.available():
        finders.append(lambda text: pii.personal(text, allow))

    def fix(text: str) -> str:
        flaws, fixed = characters.flaws(text), characters.repair(text) if letters else text
        if fixed != text:
            done.update({"repaired encoding": None} if "mojibake" in flaws else {})
            done.update({"removed control characters": None} if {"control", "invisible"} & set(flaws) else {})
        for find in finders:
            if matches := find(fixed):
                done.update(dict.fromkeys(f"redacted {match.kind}" for match in matches))
                fixed = pii.redact(fixed, matches)
        said.append(text)
        return fixed

    def spell(text: str) -> str:
        usual = spellings.get(text.strip(), text)
        done.update({f"label {text!r} → {usual!r}": None} if usual != text else {})
        return usual

    patch = {}
    for role, column in layout.written.items():
        cell = row.get(column)
        new = altered(cell, fix)
        if role == "label" and "label_spelling" in kinds:
            new = altered(new, spell)
        if new != cell:
            patch[column] = new
    return patch, list(done)

"""Recognise the layout of a table: by the names of its columns and, where they do not decide, by its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any

from peft_nb.data import RowProblem, Rows, columns_of, looked_at, parse, unused
from peft_nb.data.conversations import parse_cell, style
from peft_nb.data.layouts import LAYOUTS, RATING, Layout, LayoutType, columns_for, filled, rated
from peft_nb.errors import DataError, nearest

SHOWN = 5  # values named in a refusal
# What a table is taken for that has questions, or images, and nothing else that is known.
ALONE = (LAYOUTS["prompt"], LAYOUTS["image"])


@dataclass(frozen=True)
class _Reading:
    """A layout that a table's columns allow, and the rows, of those looked at, that can be read so."""

    format: LayoutType
    columns: dict[str, str]
    used: frozenset[str]  # columns but those that any conversation may have, such as the system prompt's
    named: int  # how many of them were given or have their role's very name
    rows: frozenset[int]

    def beats(self, other: _Reading) -> bool:
        """Tell whether it explains the table better: it uses more columns, or the same ones under their own names."""
        if self.used < other.used or other.used < self.used:
            return other.used < self.used
        return bool(self.used & other.used and self.named and not other.named)

    def __str__(self) -> str:
        return f"format={self.format.name!r}, columns={self.columns}"


def detect(rows: Sequence[Mapping[str, Any]], format: str = "auto", columns: Mapping[str, str] | None = None) -> Layout:
    """Recognise the layout of a table by the names of its columns and, where they do not decide, by its cells.

    A name that is the role's own comes before its usual other names, and a reading that uses more columns
    before one that uses some of the same; what then is still ambiguous is refused. Only some rows are looked
    at: others that disagree are refused when they are read.

    Conversations with a column that says good or bad of each are rated answers, unless `format` says otherwise.

    Parameters
    ----------
    rows : sequence of mapping
        The table.
    format : str, default "auto"
        A key of `LAYOUTS` to insist on.
    columns : mapping of str to str, optional
        Role to column, for columns of other names, such as ``{"prompt": "ask"}``.

    Returns
    -------
    Layout
        What was recognised, and why.

    Raises
    ------
    DataError
        When the table fits no layout, several, or one in some rows and another in others, when `format` or
        `columns` names something that is not there, or when a rating is neither good nor bad.
    """
    present = columns_of(rows)
    given = columns or {}
    layouts = _allowed(format, given, present)
    looked = looked_at(rows)
    ways = [(entry, given) for entry in layouts if entry.kind != "rated"]
    talks = [LAYOUTS[entry.conversation] for entry in layouts if entry.kind == "rated"]
    talks = [entry for entry in talks if entry.readings(present, given)]
    ratings = _ratings(rows, present, given, looked, told=format == "rated") if talks else {}
    for column, words in ratings.items():
        ways += [(rated(entry, words), {**given, RATING.name: column}) for entry in talks]
    found = [_reading(entry, one, given, looked) for entry, roles in ways for one in entry.readings(present, roles)]
    able = [one for one in found if one.rows] or found
    best = [one for one in able if not any(other.beats(one) for other in able)]
    for entry in ALONE if format == "auto" else ():
        if not best and set(given) <= {role.name for role in entry.roles}:
            alone = [_reading(entry, one, given, looked) for one in entry.readings(present, given)]
            best = [one for one in alone if one.rows and (one.named or len(alone) == 1)][:1]
    several = unused.flags(rows, given.values()) if not best and format in ("auto", "text_label") else []
    if len(several) > 1:
        texts = (column for column in present if any(isinstance(row.get(column), str) for row in looked.values()))
        raise DataError(unused.as_lists(several, next(texts, "…")))
    if not best and (format == "rated" or RATING.name in given) and (unclear := _unclear(present, given, looked)):
        raise DataError(unclear)
    if not best:
        raise DataError((rows.doubt if isinstance(rows, Rows) else "") or _unrecognised(present, format, given))
    if len(best) > 1 and best[0].rows:  # rows that fit nothing are refused one by one, with reasons
        raise DataError(_several(present, best))
    why = _why(best[0], present, looked, given=format != "auto" or bool(given))
    return Layout(best[0].format, best[0].columns, why)


def _reading(
    entry: LayoutType, columns: dict[str, str], given: Mapping[str, str], looked: Mapping[int, Mapping[str, Any]]
) -> _Reading:
    telling = {role.name: columns[role.name] for role in entry.roles if role.tells and role.name in columns}
    named = sum(role in given or role == column.strip().casefold() for role, column in telling.items())
    able = frozenset(number for number, row in looked.items() if entry.holds(row, columns))
    return _Reading(entry, columns, frozenset(telling.values()), named, able)


def _allowed(format: str, given: Mapping[str, str], present: Sequence[str]) -> list[LayoutType]:
    """The layouts that `format` and the roles of `columns` leave; DataError when these name what is not there."""
    if format not in ("auto", *LAYOUTS):
        hint = nearest(format, LAYOUTS)
        raise DataError(f"format {format!r} is not known{hint}; formats are auto, {', '.join(LAYOUTS)}")
    layouts = [entry for entry in LAYOUTS.values() if entry.name == format or (format == "auto" and not entry.asks)]
    if format in ("auto", "rated"):
        layouts = [entry for entry in layouts if entry.kind != "rated"]
        layouts += [rated(entry) for entry in LAYOUTS.values() if entry.kind == "chat"]
    roles = list(dict.fromkeys(role.name for entry in layouts for role in entry.roles))
    for role, column in given.items():
        if role not in roles:
            hint = nearest(role, roles)
            raise DataError(
                f"columns: {role!r} is not a role{hint}; columns maps a role ({', '.join(roles)}) to a column"
            )
        if column not in present:
            hint = nearest(column, present)
            raise DataError(f"columns: there is no column {column!r} for {role}{hint}; there are {_listed(present)}")
    return [entry for entry in layouts if set(given) <= {role.name for role in entry.roles}]


def _rating_columns(present: Sequence[str], given: Mapping[str, str]) -> list[str]:
    """Columns that may say whether an answer is good: the given one, else all of such a name."""
    names = (RATING.name, *RATING.others)
    free = [column for column in present if column not in given.values() and column.strip().casefold() in names]
    return [given[RATING.name]] if RATING.name in given else free


def _ratings(
    rows: Sequence[Mapping[str, Any]],
    present: Sequence[str],
    given: Mapping[str, str],
    looked: Mapping[int, Mapping[str, Any]],
    told: bool,
) -> dict[str, Mapping[str, bool]]:
    """Columns that tell good answers from bad ones, with the values that do; one of the role's very name alone."""
    found = {}
    told |= RATING.name in given
    for column in _rating_columns(present, given):
        cells = [cell for row in looked.values() if filled(cell := row.get(column))]
        if not told and parse.ratings(cells, told=True):  # the rows looked at may all be good, and a later one bad
            seen = set(map(parse.rated_as, cells))
            all_cells = (cell for row in rows if filled(cell := row.get(column)))
            cells += islice((cell for cell in all_cells if parse.rated_as(cell) not in seen), 1)
        if words := parse.ratings(cells, told):
            found[column] = words
    own = [column for column in found if column.strip().casefold() == RATING.name]
    return {column: found[column] for column in own or found}


def _unclear(present: Sequence[str], given: Mapping[str, str], looked: Mapping[int, Mapping[str, Any]]) -> str:
    """Word the refusal of ratings that are neither good nor bad; empty where there is no such column."""
    for column in _rating_columns(present, given):
        cells = [cell for row in looked.values() if filled(cell := row.get(column))]
        if cells and not parse.ratings(cells, told=True):
            values = list(dict.fromkeys(" ".join(str(cell).split())[:20] for cell in cells))
            shown = ", ".join(values[:SHOWN]) + ", …" * (len(values) > SHOWN)
            fix = "write true for good answers and false for bad ones"
            return f"column {column!r} holds {shown}, and an answer is rated good or bad; {fix}"
    return ""


def _why(reading: _Reading, present: Sequence[str], looked: Mapping[int, Mapping[str, Any]], given: bool) -> str:
    used = []
    for column in reading.columns.values():
        seen = _seen(next((row[column] for row in looked.values() if filled(row.get(column))), None))
        used.append(f"{column} ({seen})" if seen else column)
    rows = [{column: row.get(column) for column in present} for row in looked.values()]
    left = [
        f"the row index {one.column!r}" if one.what == "index" else one.column
        for one in unused.find(rows, reading.columns.values())
    ]
    notes = ["as told"] * given + _meanings(reading, looked) + [f"not used: {', '.join(left)}"] * bool(left)
    return f"columns {', '.join(used)} → {reading.format.name}" + (f" ({'; '.join(notes)})" if notes else "")


def _meanings(reading: _Reading, looked: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Say of rated answers which values mean good and which bad."""
    if reading.format.kind != "rated":
        return []
    column, (label,) = reading.columns[RATING.name], [role for role in reading.format.roles if role.name == RATING.name]
    values: dict[bool, dict[str, None]] = {True: {}, False: {}}
    for row in looked.values():
        with suppress(RowProblem):
            if filled(cell := row.get(column)):
                values[label.parse(cell)][str(cell).strip().casefold()] = None
    means = [f"{', '.join(held)} is {'good' if good else 'bad'}" for good, held in values.items() if held]
    return [f"{column}: {', '.join(means)}"] if means else []


def _seen(cell: Any) -> str:
    """Say what a cell holds where that is more than its column's name tells."""
    keys, held = style(cell), parse_cell(cell)
    if not isinstance(held, (list, tuple, Mapping)):
        return ""
    written = " in text" if isinstance(cell, str) else ""
    return (f"messages with {' and '.join(keys)}" if keys else f"{type(held).__name__}s") + written


def _several(present: Sequence[str], best: Sequence[_Reading]) -> str:
    """Word the refusal of a table that is ambiguous, or mixed: then no row can be read in two ways."""
    if any(one.rows & other.rows for one, other in combinations(best, 2)):
        readings = " or ".join(map(str, best))
        return f"columns {_listed(present)} can be read in {len(best)} ways; say which: {readings}"
    each = ", ".join(f"row {min(one.rows)} is {one}" for one in sorted(best, key=lambda one: min(one.rows)))
    fix = "keep the rows of one layout or write all of them in one"
    return f"rows are of {len(best)} layouts (counting from 0): {each}; {fix}"


def _listed(present: Sequence[str]) -> str:
    return ", ".join(map(repr, present)) or "none"


def _unrecognised(present: Sequence[str], format: str, given: Mapping[str, str]) -> str:
    """Word the refusal of a table that fits no layout, with an example of how to say what is meant."""
    auto = [entry for entry in LAYOUTS.values() if not entry.asks]
    entries = [LAYOUTS[format]] if format != "auto" else [LAYOUTS["text"]] if len(present) < 2 else auto
    # The layout of which most is there: its columns stay, the others are filled in as they come.
    examples = [
        (entry, {role.name: columns_for(role, present, given)[:1] for role in entry.roles if role.required})
        for entry in entries
    ]
    entry, known = max(examples, key=lambda example: sum(map(bool, example[1].values())))
    free = [column for column in present if [column] not in known.values() and column not in given.values()]
    example = {role: column[0] if column else (free.pop(0) if free else "…") for role, column in known.items()}
    needs = ", ".join(role.name for role in entry.roles if role.required)
    fit = "fit no known layout" if format == "auto" else f"do not fit {format}, which needs {needs}"
    say = f"format={entry.name!r}, columns={example}"
    return f"columns {_listed(present)} {fit}; say which column is which, such as {say}"

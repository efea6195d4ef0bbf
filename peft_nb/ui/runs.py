"""The store as a table: sorted by any column, searched by words, twenty runs a page."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

from peft_nb.metrics import METRICS
from peft_nb.runs.run import Run, load, runs
from peft_nb.store import Record, Store
from peft_nb.system.display import Displayed
from peft_nb.ui import wording
from peft_nb.ui.listing import Listing
from peft_nb.ui.status import sparkline
from peft_nb.ui.view import Curve

PAGE = 20  # runs
LONGEST = 90  # characters of a text in a cell that are shown at once
SIGNS = {"passed": "✓", "failed": "✗"}
FIRST = {  # what to do while there is no run
    "Check a DataFrame": "%peft data TABLE",
    "Train on it, in a cell of its own": "%%peft lora --data TABLE --out run",
    "Or fill in a form, which writes that cell": "%peft panel",
}


class Runs(Displayed, Listing):
    """What :func:`peft_nb.runs` gives, and the room it takes; where widgets are shown, the panel of the runs."""

    space = ""
    _metadata = ("space",)

    def __repr__(self) -> str:
        first = "\n".join(["no runs yet", *(f"{what}: {code}" for what, code in FIRST.items())])
        return f"{super().__repr__() if len(self) else first}\n\n{self.space}"

    def _repr_html_(self) -> str:
        return f"{super()._repr_html_() if len(self) else empty()}<p>{escape(self.space)}</p>"


def empty() -> str:
    """Say what to do where the store holds no run."""
    first = "".join(f"<li>{escape(what)}: <code>{escape(code)}</code></li>" for what, code in FIRST.items())
    return f"<p>No runs yet.</p><ol>{first}</ol>"


def listed(store: Store) -> Runs:
    """List the runs of a store, newest first, and say what room they take."""
    found, room = Runs(runs(store)), store.space()
    of_runs, rows, unused = (wording.memory(round(size / 1e6, 1)) for size in (room.runs, room.rows, room.unused))
    idle = f" ({unused} used by no run; %peft rm --unused removes them)" if room.unused else ""
    found.space = f"on disk: {of_runs} of runs, {rows} of encoded rows{idle}"
    return found


@dataclass(frozen=True)
class Column:
    """One column: what it is sorted by (None comes last), what stands in its cells as escaped HTML, and how."""

    key: Callable[[Record], Any]
    cell: Callable[[Record], str]
    descending: bool = False  # whether high values are what people look for first
    number: bool = False


def _run(record: Record) -> str:
    what = (
        f"{record.id} · {record.method}" if record.version else " · ".join(filter(None, (record.name, record.method)))
    )
    return _small(f"{what} on {record.model}") + _chips(record)


def _chips(record: Record) -> str:
    """The tags of a run, each of which finds all runs that have it."""
    return "".join(
        f'<button type="button" class="peft-nb-tag" data-tag="{tag}" aria-label="runs tagged {tag}">{tag}</button>'
        for tag in map(escape, record.tags)
    )


def _status(record: Record) -> str:
    return escape(record.status) + _small(record.reason or "")


def _eval_loss(record: Record) -> str:
    after, before = record.metrics.get("eval_loss"), record.metrics.get("base_eval_loss")
    if after is None:
        return ""
    return wording.loss(after) + (_small(f"base {wording.loss(before)}") if before is not None else "")


def _verdict(record: Record) -> str:
    word, _, rest = str(record.metrics.get("verdict") or "").partition(":")
    said = f"{SIGNS.get(word, '')} {_whole(word)}{_small(rest.strip())}" if word else ""
    watched = record.metrics.get("watched")
    return said + _small(f"watched: {watched}" if watched else "")


def _duration(record: Record) -> str:
    seconds, peak = _seconds(record), record.metrics.get("peak_memory_mb")
    said = wording.duration(seconds) if seconds is not None else ""
    return said + (_small(f"peak {wording.memory(peak)}") if peak is not None else "")


def _seconds(record: Record) -> float | None:
    seconds: float | None = record.metrics.get("wall_seconds", record.metrics.get("train_seconds"))
    return seconds


def _local(record: Record) -> datetime:
    return record.created.astimezone()


def _version(record: Record) -> tuple[str, int] | None:
    return (str(record.name), record.version) if record.version else None


def _versions(record: Record) -> str:
    version = f"v{record.version}" if record.version else ""
    return version + "".join(f"<div>@{escape(label)}</div>" for label in record.labels)


def _small(text: str) -> str:
    return f"<small>{_whole(text)}</small>" if text else ""


def _whole(text: str) -> str:
    """A text, of which what is long is folded away."""
    if len(text) <= LONGEST:
        return escape(text)
    return f"<details><summary>{escape(text[: LONGEST - 1])}…</summary>{escape(text)}</details>"


def _created(record: Record) -> str:
    return f"{_local(record):%Y-%m-%d}<small>{_local(record):%H:%M}</small>"


NEWEST, TRAINING = "created", METRICS["train_loss"].title
COLUMNS: dict[str, Column] = {
    "run": Column(lambda record: record.title.casefold(), _run),
    "status": Column(lambda record: record.status, _status),
    TRAINING: Column(lambda record: record.metrics.get("train_loss"), lambda record: "", number=True),
    METRICS["eval_loss"].title: Column(lambda record: record.metrics.get("eval_loss"), _eval_loss, number=True),
    "verdict": Column(lambda record: record.metrics.get("verdict"), _verdict),
    "version": Column(_version, _versions, descending=True),
    NEWEST: Column(lambda record: record.created, _created, descending=True),
    "duration": Column(_seconds, _duration, number=True),
}


def found(records: Sequence[Record], words: str) -> list[Record]:
    """Keep the runs in which all words occur, in any case; ``tag:NAME`` is a tag as a whole.

    Parameters
    ----------
    records : sequence of Record
        As the store lists them.
    words : str
        Parts of an id, a name, ``name@alias``, a tag, a method, a model, a status, a reason or a verdict, divided by
        spaces.

    Returns
    -------
    list of Record
        In the order given.
    """
    wanted = words.casefold().split()
    return [record for record in records if all(_has(record, word) for word in wanted)]


def _has(record: Record, word: str) -> bool:
    if word.startswith("tag:"):
        return word.removeprefix("tag:") in {tag.casefold() for tag in record.tags}
    told = [record.id, record.title, record.name, record.method, record.model, record.status, record.reason]
    told += [f"{record.name}@{alias}" for alias in [*record.aliases, *record.shares]] + [
        str(record.metrics.get("verdict") or "")
    ]
    return word in " ".join(filter(None, [*told, *record.tags])).casefold()


def ordered(records: Sequence[Record], column: str, descending: bool) -> list[Record]:
    """Sort runs by a column.

    Parameters
    ----------
    records : sequence of Record
        As the store lists them.
    column : str
        One of `COLUMNS`.
    descending : bool
        Whether high values come first.

    Returns
    -------
    list of Record
        Runs without a value come last either way.
    """
    key = COLUMNS[column].key
    known = [record for record in records if key(record) is not None]
    return [*sorted(known, key=key, reverse=descending), *(record for record in records if key(record) is None)]


def curves(store: Store, records: Sequence[Record]) -> dict[str, str]:
    """Draw the loss of runs small.

    Parameters
    ----------
    store : Store
        Where they are.
    records : sequence of Record
        Of one page.

    Returns
    -------
    dict of str to str
        An SVG element by the id of each run that has a curve.
    """
    drawn = {}
    for record in records:
        losses, evals = (_curve(points) for points in store.curve(record.id))
        drawn[record.id] = sparkline(losses, evals)
    return drawn


def _curve(points: Sequence[tuple[int, float]]) -> Curve:
    curve = Curve()
    for step, value in points:
        curve = curve.add(step, value)
    return curve


def table(
    records: Sequence[Record], drawn: Mapping[str, str], column: str, descending: bool, chosen: Collection[str]
) -> str:
    """Write runs as a table.

    Parameters
    ----------
    records : sequence of Record
        Of one page; their words may come from anywhere and are escaped.
    drawn : mapping of str to str
        Curves, as :func:`curves` gives them.
    column, descending : str, bool
        How they are sorted.
    chosen : collection of str
        Ids of those that are ticked.

    Returns
    -------
    str
        A ``<table>``; each cell knows its column, so that a narrow one can show a run as a card. Headers
        sort, titles open, boxes choose and tags find, as ``data-sort``, ``-open``, ``-run`` and ``-tag`` say.
    """
    sort = {column: f' aria-sort="{"descending" if descending else "ascending"}"'}
    mark = {column: " ▼" if descending else " ▲"}
    head = "".join(
        f'<th scope="col" role="columnheader"{sort.get(name, "")}{" data-number" * one.number}>'
        f'<button type="button" data-sort="{name}">{name}{mark.get(name, "")}</button></th>'
        for name, one in COLUMNS.items()
    )
    rows = []
    for record in records:
        cells = []
        for name, one in COLUMNS.items():
            shown = drawn.get(record.id, "") + _trained(record) if name == TRAINING else one.cell(record)
            label = f'data-label="{name}"' + " data-number" * one.number
            tag = 'th scope="row" role="rowheader"' if name == "run" else 'td role="cell"'
            handle = _handle(record, record.id in chosen) if name == "run" else ""
            cells.append(f"<{tag} {label}>{handle}{shown}</{tag[:2]}>")
        marked = ' class="peft-nb-chosen"' if record.id in chosen else ""
        rows.append(f'<tr role="row"{marked}>{"".join(cells)}</tr>')
    return (
        '<table role="table" class="peft-nb-runs"><caption>Runs in the store</caption>'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{"".join(rows)}</tbody></table>'
    )


def _handle(record: Record, chosen: bool) -> str:
    """What chooses a run, and what opens it."""
    id, title = escape(record.id), escape(record.title)
    box = f'<input type="checkbox" data-run="{id}" aria-label="choose {title}"{" checked" * chosen}>'
    return f'{box}<button type="button" data-open="{id}" aria-label="open {title}">{title}</button>'


def _trained(record: Record) -> str:
    loss = record.metrics.get("train_loss")
    return _small(wording.loss(loss)) if loss is not None else ""


def opened(id: str, store: Store, namespace: Mapping[str, Any]) -> tuple[Run, str | None]:
    """Open a run: the one that a variable of the notebook holds, with its name, or else from the store."""
    folder = store.folder_of(id)
    for name, value in namespace.items():
        if isinstance(value, Run) and value.folder == folder and not name.startswith("_"):
            return value, name
    return load(id, store=store), None

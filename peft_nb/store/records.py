"""What the index knows about one run, and how a word of the user's finds it."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peft_nb.errors import StoreError, nearest
from peft_nb.events import ACTIVE, Status
from peft_nb.store.connection import Index
from peft_nb.store.facts import Facts
from peft_nb.system import files

ROW = """
    SELECT runs.*, versions.number AS version,
        (SELECT at FROM events WHERE run = runs.id ORDER BY n DESC LIMIT 1) AS heard,
        (SELECT group_concat(tag, ' ') FROM tags WHERE run = runs.id) AS tags,
        (SELECT group_concat(alias, ' ') FROM held WHERE name = versions.name AND version = versions.number) AS aliases,
        (SELECT json_group_object(alias, share) FROM shares WHERE name = versions.name AND version = versions.number)
            AS shares
    FROM runs LEFT JOIN versions ON versions.run = runs.id
"""

NUMBER = re.compile(r"v([1-9]\d{0,8})", re.ASCII)
SILENCE_S = 15 * 60  # processes of other hosts cannot be asked whether they live


@dataclass(frozen=True)
class Record:
    """What the store knows about one run; times are in UTC, a metric that was not finite is None.

    A run that finished under a name is a ``version`` of it, 1 or more, and may be what ``aliases`` such as
    ``production`` stand for.
    """

    id: str
    name: str | None
    method: str
    model: str
    created: datetime
    status: Status
    reason: str
    spec_yaml: str
    facts: Facts
    metrics: dict[str, Any]
    package_versions: dict[str, str]
    folder: Path
    version: int | None = None
    aliases: tuple[str, ...] = ()
    removed: datetime | None = None
    tags: tuple[str, ...] = ()
    shares: dict[str, float] = field(default_factory=dict)  # of the requests to an alias that is mainly another version

    @property
    def title(self) -> str:
        """Such as ``tickets v2``, or the id of a run that is no version."""
        return f"{self.name} v{self.version}" if self.version else self.id

    @property
    def labels(self) -> list[str]:
        """Its aliases, with ``10 %`` behind one of which it answers that share of the requests."""
        return [*self.aliases, *(f"{alias} {100 * share:.3g} %" for alias, share in self.shares.items())]


def read(index: Index, where: str, **values: Any) -> list[Record]:
    """Read the records of some runs, by a condition and an order in SQL."""
    return [record(index, row) for row in index.read(f"{ROW} WHERE {where}", **values)]


def get(index: Index, word: str, *, unfinished: bool = False) -> Record:
    """Look up one run by a word of the user's."""
    return record(index, find(index, word, unfinished=unfinished))


def row_of(index: Index, id: str) -> sqlite3.Row:
    """Look up the row of a run by its id alone."""
    return find(index, id, "runs.id = :word")


def find(index: Index, word: str, where: str = "", *, unfinished: bool = False, gone: bool = False) -> sqlite3.Row:
    """Find the row of the run that a word means; one that is gone only if asked for."""
    name, at, which = word.partition("@")
    number = NUMBER.fullmatch(which)
    if not at:
        where = where or "(runs.id = :word OR runs.name = :word)"
    elif number:
        where, which = "versions.name = :name AND versions.number = CAST(:which AS INTEGER)", number[1]
    else:
        holds = "SELECT version FROM held WHERE name = :name AND alias = :which"
        where = f"versions.name = :name AND versions.number = ({holds})"
    first = "version IS NULL DESC, " if unfinished else ""
    order = f"removed IS NULL DESC, runs.id = :word DESC, {first}version DESC, runs.rowid DESC"
    for row in index.read(f"{ROW} WHERE {where} ORDER BY {order} LIMIT 1", word=word, name=name, which=which):
        if row["removed"] is None or gone:
            return row
        raise StoreError(f"{word} was removed on {_time(row['removed']):%Y-%m-%d}; %peft log {row['id']} says why")
    hint = nearest(word, _known(index, "@" in word)) or "; %peft runs lists them"
    raise StoreError(f"there is no run {word!r} in {index.folder}{hint}")


def record(index: Index, row: sqlite3.Row) -> Record:
    """Make a record of a row; an active run whose process has died reads as stopped."""
    orphaned = row["status"] in ACTIVE and not (held(row) or away(row))
    return Record(
        id=row["id"],
        name=row["name"],
        method=row["method"],
        model=row["model"],
        created=_time(row["created"]),
        status="stopped" if orphaned else row["status"],
        reason="interrupted (kernel died)" if orphaned else row["reason"],
        spec_yaml=row["spec_yaml"],
        facts=Facts.from_json(row["facts"]),
        metrics=json.loads(row["metrics"]),
        package_versions=json.loads(row["package_versions"]),
        folder=index.folder_of(row["id"]),
        version=row["version"],
        aliases=tuple(sorted((row["aliases"] or "").split())),
        removed=row["removed"] and _time(row["removed"]),
        tags=tuple(sorted((row["tags"] or "").split())),
        shares=json.loads(row["shares"]),
    )


def held(row: sqlite3.Row) -> bool:
    """Whether a living process is at work on a run."""
    lives = bool(row["owner"]) and files.alive(row["owner"])
    return time.time() - (row["heard"] or row["created"]) < SILENCE_S if lives is None else lives


def away(row: sqlite3.Row) -> bool:
    """Whether a cluster is at work on a run, which goes on without the process that began it."""
    return row["status"] in ACTIVE and Facts.from_json(row["facts"]).place is not None


def _known(index: Index, exact: bool) -> list[str]:
    """The words that runs are known by."""
    query = "SELECT id, name FROM runs WHERE removed IS NULL"
    if exact:
        query = "SELECT name || '@' || alias FROM held UNION ALL SELECT name || '@v' || number FROM versions"
    return [word for row in index.read(query) for word in row if word]


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)

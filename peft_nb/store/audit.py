"""The audit log: who did what, when and why. SQLite itself refuses to change or shorten it.

Each line holds a hash of itself and of the hash before it, so that a line which was changed, put in or taken out behind
SQLite's back is found. Whoever can write the file could hash all lines anew, or cut off the last: note the last hash
elsewhere where that matters.
"""

from __future__ import annotations

import getpass
import sqlite3
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from peft_nb.store import records
from peft_nb.store.connection import Index, line_hash

HASHED = (  # in this order
    *("at", "who", "action", "run", "name", "version", "alias", "before", "why", "forced", "share", "named", "rule"),
)


@dataclass(frozen=True)
class Entry:
    """One line of the log.

    Attributes
    ----------
    at : datetime
        When, in UTC.
    who : str
        Name of the account.
    action : str
        ``version`` (a run became one), ``promote``, ``rollback``, ``seal`` (files were changed on purpose),
        ``remove``, ``policy``, ``approve``, ``withdraw`` (an approval), ``watch`` or
        ``probe``.
    run : str or None
        Id of the run concerned; after a rollback to nothing, None.
    name, version : str, int or None
        Which version of which name that run is.
    alias : str or None
        The alias that moved.
    before : int or None
        The version that it held until then.
    why : str
        The reason given, or nothing.
    forced : str or None
        What spoke against it and was overruled.
    share : float or None
        The share of requests, above 0 and below 1, that `version` was given, or that a rollback took from `before`.
    named : str or None
        What the person who approved is called; the account, `who`, may be one that several use.
    rule : str or None
        Of a policy, as JSON; None where it was removed.
    hash : str or None
        SHA-256 of the line and of the hash before it.
    """

    at: datetime
    who: str
    action: str
    run: str | None
    name: str | None
    version: int | None
    alias: str | None
    before: int | None
    why: str
    forced: str | None
    share: float | None = None
    named: str | None = None
    rule: str | None = None
    hash: str | None = None


def append(db: sqlite3.Connection, action: str, **told: Any) -> Entry:
    """Add a line, in the transaction that does what it tells, and give it.

    Parameters
    ----------
    db : sqlite3.Connection
        The index, being written.
    action : str
        What is done.
    **told
        The other fields of :class:`Entry`.
    """
    values = {"why": "", **told, "action": action, "at": time.time(), "who": who()}
    last = db.execute("SELECT hash FROM audit ORDER BY id DESC LIMIT 1").fetchone()
    values["hash"] = line_hash(last[0] if last else "", *(values.get(name) for name in HASHED))
    db.execute(
        f"INSERT INTO audit ({', '.join(values)}) VALUES ({', '.join(f':{name}' for name in values)})",
        values,
    )
    return _entry(db.execute("SELECT * FROM audit WHERE id = last_insert_rowid()").fetchone())


def examined(index: Index, id: str, action: str, why: str) -> Entry:
    """Write down what watching or probing a run has found."""
    row = records.row_of(index, id)
    with index.writing() as db:
        return append(db, action, run=id, name=row["name"], version=row["version"], why=why)


def read(index: Index, where: str, **values: Any) -> list[Entry]:
    """Read some lines, newest first, by a condition in SQL."""
    return [_entry(row) for row in index.read(f"SELECT * FROM audit WHERE {where} ORDER BY id DESC", **values)]


def broken(index: Index) -> Entry | None:
    """Find the first line that is not what was written, or does not follow the one before it."""
    before = ""
    for row in index.read("SELECT * FROM audit ORDER BY id"):
        if row["hash"] != line_hash(before, *(row[name] for name in HASHED)):
            return _entry(row)
        before = row["hash"]
    return None


def _entry(row: sqlite3.Row) -> Entry:
    told = {name: row[name] for name in row.keys() if name != "id"}  # noqa: SIM118  (a row iterates over its values)
    return Entry(**{**told, "at": datetime.fromtimestamp(row["at"], UTC)})


def who() -> str:
    """Name the account this process runs under; ``unknown`` where the system does not say."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container's user need not be in its list of users
        return "unknown"

"""Where a run came from and which version it is, written in the transaction that ends it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from peft_nb.store import audit

if TYPE_CHECKING:
    from peft_nb.store.runs import Record

ORIGIN = """
    SELECT id AS run, json_extract(facts, '$.base') AS base, json_extract(facts, '$.base_hash') AS base_hash,
        json_extract(facts, '$.data') AS data, json_extract(facts, '$.fingerprint') AS data_fingerprint,
        sha256(spec_yaml) AS spec_hash, package_versions
    FROM runs WHERE id = :id
"""


@dataclass(frozen=True)
class Evaluation:
    """One measured value of a run, such as the forgetting in the suite ``regression``.

    Attributes
    ----------
    suite, measure : str
        What was measured, and on what.
    value, low, high : float or None
        The value, and the bounds of its confidence interval.
    detail : dict
        Whatever else is worth keeping; anything that JSON holds.
    """

    suite: str
    measure: str
    value: float | None
    low: float | None = None
    high: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Lineage:
    """Where a run came from and what came of it.

    Attributes
    ----------
    record : Record
        The run.
    base, base_hash : str or None
        Name, origin and configuration of the base, and the hash of its weights.
    data, data_fingerprint : str or None
        The training rows in words, and the hash of their content.
    spec_hash : str
        SHA-256 of the spec.
    package_versions : dict of str to str
        Of the packages that trained it.
    files : dict of str to str
        SHA-256 of each file of the adapter when it was written, by path.
    damage : dict of str to str
        The files that are not what they were: ``changed``, ``missing`` or ``unreadable``.
    evaluations : list of Evaluation
        What was measured.
    parents : list of Lineage
        The runs that it was made from.
    children : list of Record
        The runs that were made from it.
    versions : list of Record
        All versions of its name, from the first.
    """

    record: Record
    base: str | None
    base_hash: str | None
    data: str | None
    data_fingerprint: str | None
    spec_hash: str
    package_versions: dict[str, str]
    files: dict[str, str]
    damage: dict[str, str]
    evaluations: list[Evaluation]
    parents: list[Lineage]
    children: list[Record]
    versions: list[Record]


def keep(db: sqlite3.Connection, id: str, written: Mapping[str, str]) -> None:
    """Write down where a run came from, from its spec and facts, and what its adapter's files hold.

    Parameters
    ----------
    db : sqlite3.Connection
        The index, being written.
    id : str
        The run.
    written : mapping of str to str
        Hashes of the adapter's files by path.
    """
    db.execute(f"INSERT OR REPLACE INTO lineage {ORIGIN}", {"id": id})
    seal(db, id, written)


def seal(db: sqlite3.Connection, id: str, written: Mapping[str, str]) -> None:
    """Replace the hashes kept of a run's files; parameters as of :func:`keep`."""
    db.execute("DELETE FROM files WHERE run = ?", (id,))
    db.executemany("INSERT INTO files VALUES (?, ?, ?)", [(id, path, digest) for path, digest in written.items()])


def enter(db: sqlite3.Connection, id: str, name: str) -> int:
    """Make a run the next version of a name.

    Parameters
    ----------
    db : sqlite3.Connection
        The index, being written: no other process can take the same number.
    id : str
        The run.
    name : str
        The name.

    Returns
    -------
    int
        Its number, from 1; that of a removed version is never used again.
    """
    (number,) = db.execute("SELECT coalesce(max(number), 0) + 1 FROM versions WHERE name = ?", (name,)).fetchone()
    db.execute("UPDATE runs SET name = ? WHERE id = ?", (name, id))
    db.execute("INSERT INTO versions VALUES (?, ?, ?)", (name, number, id))
    audit.append(db, "version", run=id, name=name, version=number)
    return int(number)

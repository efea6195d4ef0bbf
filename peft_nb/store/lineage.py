"""Where a run came from and whether its files are whole: written down when it ends, told years later."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from peft_nb.store import audit, contents, evaluations, records
from peft_nb.store.connection import Index
from peft_nb.store.evaluations import Evaluation
from peft_nb.store.records import Record

ORIGIN = """
    SELECT id AS run, json_extract(facts, '$.base') AS base, json_extract(facts, '$.base_hash') AS base_hash,
        json_extract(facts, '$.data') AS data, json_extract(facts, '$.fingerprint') AS data_fingerprint,
        sha256(spec_yaml) AS spec_hash, package_versions
    FROM runs WHERE id = :id
"""


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
    sweep : str or None
        Id of the sweep of which it is a trial, if of any.
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
    sweep: str | None = None


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
    _keep_files(db, id, written)


def trace(index: Index, word: str) -> Lineage:
    """Tell where a run came from and what came of it, with the parents' own."""
    row = records.find(index, word, gone=True)
    record, id = records.record(index, row), row["id"]
    known = index.read("SELECT * FROM lineage WHERE run = :id", id=id) or index.read(ORIGIN, id=id)
    origin = {name: known[0][name] for name in known[0].keys() if name != "run"}  # noqa: SIM118
    parents = index.read("SELECT parent FROM parents WHERE run = :id ORDER BY parent", id=id)
    children = "runs.id IN (SELECT run FROM parents WHERE parent = :id) ORDER BY runs.rowid"
    searched = index.read("SELECT sweep FROM trials WHERE run = :id", id=id)
    return Lineage(
        record,
        **{**origin, "package_versions": json.loads(origin["package_versions"])},
        files=files(index, id),
        damage=damage(index, record),
        evaluations=evaluations.read(index, id),
        parents=[trace(index, row["parent"]) for row in parents],
        children=records.read(index, children, id=id),
        versions=records.read(index, "versions.name = :name ORDER BY number", name=record.name),
        sweep=searched[0]["sweep"] if searched else None,
    )


def files(index: Index, id: str) -> dict[str, str]:
    """Read what the files of a run's adapter held when they were written."""
    return {row["path"]: row["sha256"] for row in index.read("SELECT * FROM files WHERE run = :id", id=id)}


def damage(index: Index, record: Record) -> dict[str, str]:
    """Tell which files of a run's adapter are not what they were."""
    return contents.damage(record.folder / "adapter", files(index, record.id))


def seal(index: Index, id: str, why: str) -> None:
    """Take the adapter's files as they are now for what they should be; logged if anything is different."""
    written = contents.hashes(index.folder_of(id) / "adapter")
    with index.writing() as db:
        row = records.row_of(index, id)
        if written != files(index, id):
            _keep_files(db, id, written)
            audit.append(db, "seal", run=id, name=row["name"], version=row["version"], why=why)


def _keep_files(db: sqlite3.Connection, id: str, written: Mapping[str, str]) -> None:
    db.execute("DELETE FROM files WHERE run = ?", (id,))
    db.executemany("INSERT INTO files VALUES (?, ?, ?)", [(id, path, digest) for path, digest in written.items()])

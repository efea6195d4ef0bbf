"""What becomes of runs after they have ended: versions, aliases that move between them, removal."""

from __future__ import annotations

import re
import shutil
import sqlite3
import time
from typing import Any

from peft_nb.errors import RunError, StoreError, nearest
from peft_nb.store import audit, contents, lineage, policies, records, space
from peft_nb.store.audit import Entry
from peft_nb.store.connection import Index, check_name
from peft_nb.store.records import Record
from peft_nb.system import files

ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,31}")


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


def promote(
    index: Index, word: str, alias: str, why: str, name: str | None, force: bool, share: float | None = None
) -> Record:
    """Let an alias stand for a run from now on, or for a share of requests, which makes it a version if it is none."""
    if not ALIAS.fullmatch(alias) or records.NUMBER.fullmatch(alias):
        raise StoreError(f"{alias!r} cannot be an alias; write a small word such as production or candidate")
    if not why.strip():
        raise StoreError('a promotion needs a reason for the log, such as --why "fewer refusals" (why=…)')
    if name is not None:
        check_name(name)
    if share is not None and not 0 < share < 1:
        raise StoreError(
            f"a share of {share:.6g} cannot be; write one above 0% and below 100%, such as 10% (share=0.1)"
        )
    record = records.get(index, word)
    written = contents.hashes(record.folder / "adapter")
    against = [f"{path} is {state}" for path, state in lineage.damage(index, record).items()]
    with index.writing() as db:
        record = records.get(index, record.id)
        _refuse(record, name, written)
        if lacks := policies.lacking(index, record, alias):
            raise RunError(f"run {record.id} was not promoted to {alias}: {'; '.join(lacks)}")
        verdict = " ".join(str(record.metrics.get("verdict") or "").split())
        if verdict.lower().startswith("failed"):
            against.insert(0, f"its verdict is: {verdict}")
        if against and not force:
            fix = "add --force (force=True) to promote it anyway"
            raise RunError(f"run {record.id} was not promoted: {'; '.join(against)}; {fix}")
        if record.version is None:
            enter(db, record.id, name or str(record.name))
            record = records.get(index, record.id)
        if not lineage.files(index, record.id):  # it is of an older index, or was killed when all but done
            lineage.keep(db, record.id, written)
        stack = _stack(index, str(record.name), alias)
        if stack[-1:] == [record.version]:
            raise RunError(f"{record.name}@{alias} is v{record.version} already")
        told: dict[str, Any] = {"name": record.name, "version": record.version, "alias": alias}
        if share is None:
            db.execute("DELETE FROM shares WHERE name = :name AND alias = :alias", told)
            db.execute(
                "INSERT INTO aliases SELECT :name, :alias, coalesce(max(n), 0) + 1, :version FROM aliases"
                " WHERE name = :name AND alias = :alias",
                told,
            )
        elif not stack:
            raise RunError(f"{record.name}@{alias} is no version yet to share requests with; promote one first")
        else:
            db.execute(
                "INSERT OR REPLACE INTO shares VALUES (:name, :alias, :version, :share)", told | {"share": share}
            )
        told |= {"before": stack[-1] if stack else None, "forced": "; ".join(against) or None, "share": share}
        audit.append(db, "promote", run=record.id, why=why.strip(), **told)
    return records.get(index, record.id)


def rollback(index: Index, alias: str, why: str) -> Entry:
    """End the share of an alias's second version; without one, take back the alias's last promotion."""
    with index.writing() as db:
        name, alias = _alias(index, alias)
        for shared in index.read("SELECT * FROM shares WHERE name = :name AND alias = :alias", name=name, alias=alias):
            main = records.get(index, f"{name}@{alias}")
            db.execute("DELETE FROM shares WHERE (name, alias) = (?, ?)", (name, alias))
            told = {"name": name, "version": main.version, "alias": alias, "share": shared["share"]}
            return audit.append(db, "rollback", run=main.id, why=why.strip(), before=shared["version"], **told)
        *_, before = stack = _stack(index, name, alias)
        # What lay between two promotions of one version may have been removed.
        version = next((one for one in reversed(stack) if one != before), None)
        db.execute(
            "DELETE FROM aliases WHERE name = :name AND alias = :alias AND n > (SELECT coalesce(max(n), 0)"
            " FROM aliases WHERE name = :name AND alias = :alias AND version != :before)",
            {"name": name, "alias": alias, "before": before},
        )
        run = None if version is None else records.get(index, f"{name}@v{version}").id
        told = {"name": name, "version": version, "alias": alias, "before": before}
        return audit.append(db, "rollback", run=run, why=why.strip(), **told)


def removable(index: Index, word: str) -> Record:
    """Give the run that a word names, and refuse one that an alias or a process needs."""
    row = records.find(index, word)
    record = records.record(index, row)
    if held := [*record.aliases, *record.shares]:
        names = ", ".join(f"{record.name}@{alias}" for alias in held)
        fix = "promote another version or roll back first"
        raise RunError(f"run {record.id} is {names} and stays; {fix}")
    if records.held(row) or records.away(row):
        raise RunError(f"run {record.id} is {record.status}, and a process is at work on it; stop it first")
    return record


def remove(index: Index, word: str, why: str) -> Record:
    """Delete a run's folder and curve, which no alias and no process may need, and the rows that it alone used."""
    record = records.get(index, word)
    rows = space.rows_of(record.folder)
    aside = index.runs / f".{record.id}.removed"
    try:
        with index.writing() as db:
            record = removable(index, record.id)
            # Deleted only once the index says so; a kill before that leaves it to be put back.
            with files.writing(record.folder):
                if record.folder.exists():
                    record.folder.rename(aside)
            for table in ("events", "history", "files", "tags"):
                db.execute(f"DELETE FROM {table} WHERE run = ?", (record.id,))
            db.execute("DELETE FROM aliases WHERE (name, version) = (?, ?)", (record.name, record.version))
            db.execute("UPDATE runs SET removed = ? WHERE id = ?", (time.time(), record.id))
            named = {"name": record.name, "version": record.version}
            audit.append(db, "remove", run=record.id, why=why.strip(), **named)
    finally:
        settle(index)
    space.forget(index, rows)
    index.shred()
    return record


def settle(index: Index) -> None:
    """Delete the folders that removals set aside, and put back those of removals that came to nothing."""
    gone = []
    if asides := list(index.runs.glob(".*.removed")):
        with index.writing(), files.writing(index.runs):  # locked: no removal is half done
            for aside in asides:
                id = aside.name[1:].removesuffix(".removed")
                if index.read("SELECT id FROM runs WHERE id = :id AND removed IS NOT NULL", id=id):
                    gone.append(aside)
                elif aside.exists() and not (index.runs / id).exists():
                    aside.rename(index.runs / id)
    for aside in gone:
        shutil.rmtree(aside, ignore_errors=True)


def split(index: Index, word: str) -> list[tuple[Record, float]]:
    """Give the versions that a word stands for, each with its share of the requests; the main one first."""
    main = records.get(index, word)
    name, _, alias = word.partition("@")
    query = "versions.name = :name AND number = (SELECT version FROM shares WHERE name = :name AND alias = :alias)"
    others = records.read(index, query, name=name, alias=alias)
    shared = [(other, other.shares[alias]) for other in others]
    return [(main, 1 - sum(share for _, share in shared)), *shared]


def aliases(index: Index) -> list[str]:
    """List all aliases that stand for a version, as ``name@alias``."""
    return [row["word"] for row in index.read("SELECT name || '@' || alias AS word FROM held ORDER BY word")]


def _alias(index: Index, word: str) -> tuple[str, str]:
    known = aliases(index)
    meant = [one for one in known if word in (one, one.partition("@")[2])]
    if len(meant) > 1:
        raise StoreError(f"several names have the alias {word!r}; write one of {', '.join(meant)}")
    if not meant:
        alone = [] if "@" in word else [one.partition("@")[2] for one in known]
        raise StoreError(f"there is no alias {word!r} in {index.folder}{nearest(word, [*alone, *known])}")
    name, _, alias = meant[0].partition("@")
    return name, alias


def _stack(index: Index, name: str, alias: str) -> list[int]:
    """The versions that an alias held, the last of which it holds."""
    query = "SELECT version FROM aliases WHERE name = :name AND alias = :alias ORDER BY n"
    return [row["version"] for row in index.read(query, name=name, alias=alias)]


def _refuse(record: Record, name: str | None, written: dict[str, str]) -> None:
    """Refuse to promote what can be no version."""
    run = f"run {record.id}"
    if record.status not in ("finished", "stopped"):
        raise RunError(f"{run} is {record.status}; only a run that has ended well can be promoted")
    if not written:
        raise RunError(f"{run} has no adapter to promote; resume() it first")
    if record.name and name not in (None, record.name):
        raise RunError(f"{run} is named {record.name} and keeps that name; leave out --name (name=…)")
    if not (name or record.name):
        raise RunError(f"{run} has no name to be a version of; give it one with --name NAME (name=…)")

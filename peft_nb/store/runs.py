"""A run while it is at work: entered, recorded event by event, taken up again."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from typing import Any

from peft_nb.errors import RunError, StoreError
from peft_nb.events import (
    ACTIVE,
    Evaluated,
    Event,
    Resumed,
    Status,
    StatusChanged,
    StepLogged,
    TimeLeft,
    from_json,
    to_json,
)
from peft_nb.store import contents, lineage, records, versions
from peft_nb.store.connection import Index, check_name
from peft_nb.store.facts import Facts, plain
from peft_nb.system import files

HISTORY = (
    "step, epoch, loss, eval_loss, token_accuracy, learning_rate, grad_norm, tokens_per_second, memory_mb,"
    " host_memory_mb, elapsed_s"
)
PACKAGES = ("torch", "transformers", "peft", "peft_nb")


def create(index: Index, spec_yaml: str, method: str, model: str, name: str | None, parents: Sequence[str]) -> str:
    """Enter a new run, owned by this process, make its folder and give its id."""
    if name is not None:
        check_name(name)
    id = f"{method}-{secrets.token_hex(3)}"
    while index.folder_of(id).exists() or index.read("SELECT id FROM runs WHERE id = :id", id=id):
        id = f"{method}-{secrets.token_hex(3)}"
    packages = json.dumps(_package_versions())
    with index.writing() as db, files.writing(index.folder_of(id)):
        db.execute(
            "INSERT INTO runs (id, name, method, model, created, spec_yaml, package_versions, owner)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (id, name, method, model, time.time(), spec_yaml, packages, files.owner()),
        )
        for parent in parents:
            db.execute("INSERT INTO parents VALUES (?, ?)", (id, records.row_of(index, parent)["id"]))
        index.folder_of(id).mkdir()
    return id


def record(index: Index, id: str, event: Event) -> None:
    """Append an event, and do to the run's status, history, lineage and version what follows from it.

    How much time is left is not kept: soon it is no longer true.
    """
    if isinstance(event, TimeLeft):
        return
    kind, fields = to_json(event)
    written: dict[str, str] = {}
    if ends := isinstance(event, StatusChanged) and event.status not in ACTIVE:
        try:
            written = contents.hashes(index.folder_of(id) / "adapter")  # nobody need wait for this
        except StoreError as error:  # no later try would help, and a run that failed has to be able to say so
            if fields["status"] != "failed":
                raise RunError(str(error)) from None
    with index.writing() as db:
        kept = db.execute(
            "INSERT INTO events (run, n, at, kind, fields)"
            " SELECT id, (SELECT coalesce(max(n), 0) + 1 FROM events WHERE run = runs.id), ?, ?, ?"
            " FROM runs WHERE id = ? AND removed IS NULL",
            (time.time(), kind, json.dumps(fields), id),
        )
        if not kept.rowcount:
            records.row_of(index, id)  # which says what has become of it
        match event:
            case StatusChanged(status, reason):
                _set_status(db, id, status, reason, files.owner() if status in ACTIVE else None)
                if ends:
                    lineage.keep(db, id, written)
                row = records.row_of(index, id) if status == "finished" else {"name": None}
                if row["name"] and not row["version"]:
                    versions.enter(db, id, row["name"])
            case StepLogged() | Evaluated():
                updates = ", ".join(f"{column} = excluded.{column}" for column in fields)
                db.execute(
                    f"INSERT INTO history (run, {', '.join(fields)}) VALUES (?{', ?' * len(fields)})"
                    f" ON CONFLICT (run, step) DO UPDATE SET {updates}",
                    (id, *fields.values()),
                )
            case Resumed(step):
                db.execute("DELETE FROM history WHERE run = ? AND step > ?", (id, step))


def set_metrics(index: Index, id: str, metrics: dict[str, Any]) -> None:
    """Set some metrics and keep the others; those that JSON cannot hold are named once all others are kept."""
    held, wrong = dict[str, Any](), list[str]()
    for name, value in metrics.items():
        try:
            held[name] = json.loads(json.dumps(plain(value), allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            wrong.append(f"{name} ({type(value).__name__})")
    with index.writing() as db:
        merged = json.dumps(json.loads(records.row_of(index, id)["metrics"]) | held)
        db.execute("UPDATE runs SET metrics = ? WHERE id = ?", (merged, id))
    if wrong:
        raise RunError(
            f"these metrics cannot be kept: {', '.join(wrong)}; JSON holds numbers, texts, lists and dicts of them"
        )


def set_facts(index: Index, id: str, facts: Facts) -> None:
    """Set all facts anew."""
    with index.writing() as db:
        records.row_of(index, id)
        db.execute("UPDATE runs SET facts = ? WHERE id = ?", (facts.to_json(), id))


def claim(index: Index, id: str) -> None:
    """Make this process the owner of a run that no other works on and that is no version."""
    with index.writing() as db:
        row = records.row_of(index, id)
        if row["version"]:
            raise StoreError(f"run {id} is {row['name']} v{row['version']}, which no longer changes; start another")
        if records.held(row) and row["owner"] != files.owner():
            pid, _, host = row["owner"].split("-", 2)
            raise StoreError(f"run {id} is in use by process {pid} on {host}; stop it there first")
        known = records.record(index, row)
        _set_status(db, id, known.status, known.reason, files.owner())
        db.execute("UPDATE runs SET package_versions = ? WHERE id = ?", (json.dumps(_package_versions()), id))
    files.remove_leftovers(index.folder_of(id))


def events(index: Index, id: str) -> list[Event]:
    """Read back all that was recorded."""
    records.row_of(index, id)
    rows = index.read("SELECT kind, fields FROM events WHERE run = :id ORDER BY n", id=id)
    return [from_json(row["kind"], json.loads(row["fields"])) for row in rows]


def history(index: Index, id: str) -> list[dict[str, Any]]:
    """Read the curve, one row a logged step."""
    records.row_of(index, id)
    rows = index.read(f"SELECT {HISTORY} FROM history WHERE run = :id ORDER BY step", id=id)
    return [dict(row) for row in rows]


def curve(index: Index, id: str, most: int) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Read the train and eval losses as the means of some stretches."""
    records.row_of(index, id)
    found = []
    for loss in ("loss", "eval_loss"):
        parts = f"SELECT step, {loss} AS loss, ntile(:most) OVER (ORDER BY step) AS part FROM history"
        query = f"SELECT max(step), avg(loss) FROM ({parts} WHERE run = :id AND {loss} IS NOT NULL) GROUP BY part"
        found.append([tuple(row) for row in index.read(query, id=id, most=most)])
    losses, evals = found
    return losses, evals


def _set_status(db: sqlite3.Connection, id: str, status: Status, reason: str, owner: str | None) -> None:
    values = (status, reason.encode(errors="replace").decode(), owner, id)  # names of files may hold what is no text
    db.execute("UPDATE runs SET status = ?, reason = ?, owner = ? WHERE id = ?", values)


def _package_versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found

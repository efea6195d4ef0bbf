"""Runs on disk: what was asked, what happened and what came of it.

One SQLite file (write-ahead log) indexes a folder in which each run has a folder of its own. Every call
commits before it returns, so a killed process loses nothing that it recorded.

    peft_runs/
      index.sqlite
      runs/lora-3f9a2c/
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from peft_nb import files
from peft_nb.errors import StoreError, nearest
from peft_nb.events import (
    ACTIVE,
    Evaluated,
    Event,
    Resumed,
    Status,
    StatusChanged,
    StepLogged,
    from_json,
    to_json,
)

# PRAGMA user_version counts those applied: only ever append. No statement holds a semicolon of its own.
MIGRATIONS = [
    """
    CREATE TABLE runs (
        id TEXT PRIMARY KEY, name TEXT, method TEXT NOT NULL, model TEXT NOT NULL,
        created REAL NOT NULL,            -- seconds since 1970
        status TEXT NOT NULL DEFAULT 'created', reason TEXT NOT NULL DEFAULT '',
        spec_yaml TEXT NOT NULL, metrics TEXT NOT NULL DEFAULT '{}', package_versions TEXT NOT NULL,
        owner TEXT                        -- the process at work on it, if any
    );
    CREATE TABLE events (
        id INTEGER PRIMARY KEY, run TEXT NOT NULL REFERENCES runs,
        n INTEGER NOT NULL,               -- 1, 2, 3, ... within the run
        at REAL NOT NULL, kind TEXT NOT NULL, fields TEXT NOT NULL,
        UNIQUE (run, n)
    );
    CREATE TABLE history (
        run TEXT NOT NULL REFERENCES runs, step INTEGER NOT NULL,
        epoch REAL, loss REAL, eval_loss REAL, learning_rate REAL, grad_norm REAL,
        tokens_per_second REAL, memory_mb REAL, elapsed_s REAL,
        PRIMARY KEY (run, step)
    ) WITHOUT ROWID;
    """,
]

HISTORY = "step, epoch, loss, eval_loss, learning_rate, grad_norm, tokens_per_second, memory_mb, elapsed_s"

RECORD = "SELECT *, (SELECT at FROM events WHERE run = runs.id ORDER BY n DESC LIMIT 1) AS heard FROM runs"

NAME = re.compile(r"(?!\.+$)[\w.-]{1,64}")
SILENCE_S = 15 * 60  # processes of other hosts cannot be asked whether they live
BUSY_S = 10.0
PACKAGES = ("torch", "transformers", "peft", "peft_nb")

FORBIDDEN = "this account may not use it; change its permissions or choose another folder"
DAMAGED = "it is damaged; move it away to start a new index (the folders of the runs stay)"
REMEDIES = {  # by the beginning of SQLite's name for what went wrong
    "SQLITE_BUSY": "another process holds it; try again in a moment",
    "SQLITE_CANTOPEN": FORBIDDEN,
    "SQLITE_CORRUPT": DAMAGED,
    "SQLITE_FULL": "the disk is full; free some space or choose another folder",
    "SQLITE_IOERR": "the disk reports an error; check its free space and health or choose another folder",
    "SQLITE_NOTADB": DAMAGED,
    "SQLITE_PERM": FORBIDDEN,
    "SQLITE_READONLY": FORBIDDEN,
}


@dataclass(frozen=True)
class Record:
    """What the store knows about one run; ``created`` is in UTC, a metric that was not finite is None."""

    id: str
    name: str | None
    method: str
    model: str
    created: datetime
    status: Status
    reason: str
    spec_yaml: str
    metrics: dict[str, Any]
    package_versions: dict[str, str]
    folder: Path


class Store:
    """All runs of one folder; safe to use from several threads and several processes at once.

    Every method knows a run by its ``id`` and raises ``StoreError`` if there is none or if the disk refuses.

    Parameters
    ----------
    folder : Path or str, optional
        Default ``$PEFT_NB_STORE``, else ``peft_runs`` in the working directory. Created if missing.

    Raises
    ------
    StoreError
        The folder cannot be written, or its index is damaged or was made by a newer peft_nb.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = Path(folder or os.environ.get("PEFT_NB_STORE") or "peft_runs").expanduser().resolve()
        self._index = self.folder / "index.sqlite"
        self._lock = threading.RLock()
        with files.writing(self.folder):
            (self.folder / "runs").mkdir(parents=True, exist_ok=True)
            self._runs = (self.folder / "runs").resolve()
        with self._explained():
            self._db = sqlite3.connect(self._index, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self.close = weakref.finalize(self, self._db.close)
            self._db.row_factory = sqlite3.Row
            with suppress(sqlite3.OperationalError):
                # Fails where another process switches at this moment, which is as good, and on network disks,
                # where SQLite's rollback journal serves, only slower.
                self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._migrate()

    def create(self, spec_yaml: str, *, method: str, model: str, name: str | None = None) -> str:
        """Enter a new run, owned by this process, and make its folder.

        Parameters
        ----------
        spec_yaml : str
            The spec, as YAML.
        method, model : str
            What the spec says, for listings; the method begins the id.
        name : str, optional
            The user's name for it (letters, digits, ``. _ -``, at most 64); later runs may take the same.

        Returns
        -------
        str
            The id, such as ``lora-3f9a2c``.
        """
        if name is not None:
            _check_name(name)
        id = f"{method}-{secrets.token_hex(3)}"
        while self.folder_of(id).exists():
            id = f"{method}-{secrets.token_hex(3)}"
        versions = json.dumps(_package_versions())
        with self._writing() as db, files.writing(self.folder_of(id)):
            db.execute(
                "INSERT INTO runs (id, name, method, model, created, spec_yaml, package_versions, owner)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (id, name, method, model, time.time(), spec_yaml, versions, files.owner()),
            )
            self.folder_of(id).mkdir()
        return id

    def folder_of(self, id: str) -> Path:
        """Give the folder of a run: ``runs/<id>``, always inside the store."""
        _check_name(id)
        folder = self._runs / id
        if folder.resolve() != folder:
            raise StoreError(f"{folder} leads out of the store; remove that link")
        return folder

    def record(self, id: str, event: Event) -> None:
        """Append an event as it happens, and keep the run's status and history up to date with it.

        An active status makes this process the owner, a final one leaves the run without. ``Resumed`` drops
        the rows of the history after its step.
        """
        kind, fields = to_json(event)
        with self._writing() as db:
            self._row(id)
            db.execute(
                "INSERT INTO events (run, n, at, kind, fields)"
                " SELECT ?, coalesce(max(n), 0) + 1, ?, ?, ? FROM events WHERE run = ?",
                (id, time.time(), kind, json.dumps(fields), id),
            )
            match event:
                case StatusChanged(status, reason):
                    self._set_status(id, status, reason, files.owner() if status in ACTIVE else None)
                case StepLogged() | Evaluated():
                    updates = ", ".join(f"{column} = excluded.{column}" for column in fields)
                    db.execute(
                        f"INSERT INTO history (run, {', '.join(fields)}) VALUES (?{', ?' * len(fields)})"
                        f" ON CONFLICT (run, step) DO UPDATE SET {updates}",
                        (id, *fields.values()),
                    )
                case Resumed(step):
                    db.execute("DELETE FROM history WHERE run = ? AND step > ?", (id, step))

    def set_metrics(self, id: str, metrics: dict[str, Any]) -> None:
        """Set some of a run's metrics and keep the others.

        Values may be nested and may be scalars of numpy or torch; NaN and infinity become None.
        """
        with self._writing() as db:
            merged = json.dumps(json.loads(self._row(id)["metrics"]) | _plain(metrics), allow_nan=False)
            db.execute("UPDATE runs SET metrics = ? WHERE id = ?", (merged, id))

    def claim(self, id: str) -> None:
        """Make this process the owner of a run, to resume it; what a killed owner left half-written goes.

        Raises
        ------
        StoreError
            Another living process is at work on it.
        """
        with self._writing():
            row = self._row(id)
            if _held(row) and row["owner"] != files.owner():
                pid, _, host = row["owner"].split("-", 2)
                raise StoreError(f"run {id} is in use by process {pid} on {host}; stop it there first")
            record = self._record(row)
            self._set_status(id, record.status, record.reason, files.owner())
        files.remove_leftovers(self.folder_of(id))

    def get(self, id_or_name: str) -> Record:
        """Look up one run.

        Parameters
        ----------
        id_or_name : str
            An id, or a name: then the newest run of that name.

        Returns
        -------
        Record
            An active run whose process has died reads as stopped.
        """
        return self._record(self._row(id_or_name, "id = :word OR name = :word"))

    def all(self) -> list[Record]:
        """List every run, newest first."""
        return [self._record(row) for row in self._read(f"{RECORD} ORDER BY rowid DESC")]

    def events(self, id: str) -> list[Event]:
        """Read back all that was recorded of a run, in the order in which it happened."""
        self._row(id)
        rows = self._read("SELECT kind, fields FROM events WHERE run = :id ORDER BY n", id=id)
        return [from_json(row["kind"], json.loads(row["fields"])) for row in rows]

    def history(self, id: str) -> list[dict[str, Any]]:
        """Read the curve of a run.

        Returns
        -------
        list of dict
            One row a logged step, in order, with the keys of ``HISTORY``. ``eval_loss`` stands in the row of
            its step, or in one of its own where that step was not logged. What is unknown or NaN is None.
        """
        self._row(id)
        rows = self._read(f"SELECT {HISTORY} FROM history WHERE run = :id ORDER BY step", id=id)
        return [dict(row) for row in rows]

    def _read(self, query: str, **values: str) -> list[sqlite3.Row]:
        with self._lock, self._explained():
            return self._db.execute(query, values).fetchall()

    def _row(self, word: str, where: str = "id = :word") -> sqlite3.Row:
        for row in self._read(f"{RECORD} WHERE {where} ORDER BY id = :word DESC, rowid DESC LIMIT 1", word=word):
            return row
        known = [known for row in self._read("SELECT id, name FROM runs") for known in row if known]
        raise StoreError(f"there is no run {word!r} in {self.folder}{nearest(word, known)}")

    def _set_status(self, id: str, status: Status, reason: str, owner: str | None) -> None:
        values = (status, reason, owner, id)
        self._db.execute("UPDATE runs SET status = ?, reason = ?, owner = ? WHERE id = ?", values)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite itself rolls back after some errors
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            why = next((why for code, why in REMEDIES.items() if name.startswith(code)), str(error))
            raise StoreError(f"cannot use {self._index}: {why}") from error

    def _migrate(self) -> None:
        with self._writing() as db:  # locked, so that two processes cannot both find an old index
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > len(MIGRATIONS):
                raise StoreError(f"{self._index} was made by a newer peft_nb; upgrade with pip install -U peft_nb")
            for script in MIGRATIONS[version:]:
                for statement in script.split(";"):  # executescript would commit first
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _record(self, row: sqlite3.Row) -> Record:
        orphaned = row["status"] in ACTIVE and not _held(row)
        return Record(
            id=row["id"],
            name=row["name"],
            method=row["method"],
            model=row["model"],
            created=datetime.fromtimestamp(row["created"], UTC),
            status="stopped" if orphaned else row["status"],
            reason="its process ended" if orphaned else row["reason"],
            spec_yaml=row["spec_yaml"],
            metrics=json.loads(row["metrics"]),
            package_versions=json.loads(row["package_versions"]),
            folder=self.folder_of(row["id"]),
        )


def _held(row: sqlite3.Row) -> bool:
    lives = bool(row["owner"]) and files.alive(row["owner"])
    return time.time() - (row["heard"] or row["created"]) < SILENCE_S if lives is None else lives


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise StoreError(f"{name!r} cannot name a run; use up to 64 letters, digits, '.', '_' and '-'")


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _plain(value: Any) -> Any:
    """Reduce a value to what JSON can hold."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "item"):  # a scalar of numpy or torch
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""The index file: opened, brought up to date, read and written, and its errors told in one line."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from peft_nb.errors import StoreError
from peft_nb.store import schema
from peft_nb.system import files

BUSY_S = 10.0

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


class Index:
    """A folder and the SQLite file in it; see :class:`peft_nb.store.Store`."""

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
            self._db.create_function("sha256", 1, sha256, deterministic=True)
            with suppress(sqlite3.OperationalError):
                # Fails where another process switches at this moment, which is as good, and on network disks,
                # where SQLite's rollback journal serves, only slower.
                self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._migrate()

    def _read(self, query: str, **values: Any) -> list[sqlite3.Row]:
        with self._lock, self._explained():
            return self._db.execute(query, values).fetchall()

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
            if version > len(schema.MIGRATIONS):
                raise StoreError(f"{self._index} was made by a newer peft_nb; upgrade with pip install -U peft_nb")
            for script in schema.MIGRATIONS[version:]:
                for statement in schema.statements(script):
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS)}")


def sha256(text: str) -> str:
    """Hash a text, to 64 hexadecimal digits; also known to SQL in the index."""
    return hashlib.sha256(text.encode()).hexdigest()

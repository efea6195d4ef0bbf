"""The index file: opened, brought up to date, read and written, and its errors told in one line."""

from __future__ import annotations

import hashlib
import json
import os
import re
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
NAME = re.compile(r"(?!\.+$)[\w.-]{1,64}")

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
    """A folder of runs and the SQLite file that lists them.

    Parameters
    ----------
    folder : Path or str, optional
        As of :class:`peft_nb.store.Store`.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = Path(folder or os.environ.get("PEFT_NB_STORE") or "peft_runs").expanduser().resolve()
        self.file = self.folder / "index.sqlite"
        self._lock = threading.RLock()
        with files.writing(self.folder):
            (self.folder / "runs").mkdir(parents=True, exist_ok=True)
            self.runs = (self.folder / "runs").resolve()
        with self._explained():
            self._db = sqlite3.connect(self.file, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self.close = weakref.finalize(self, self._db.close)
            self._db.row_factory = sqlite3.Row
            self._db.create_function("sha256", 1, sha256, deterministic=True)
            self._db.create_function("line_hash", -1, line_hash, deterministic=True)
            with suppress(sqlite3.OperationalError):
                # Fails where another process switches at this moment, which is as good, and on network disks,
                # where SQLite's rollback journal serves, only slower.
                self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            # A thousand runs at once write to as many pages: they stay at hand, and reach the file in one go.
            self._db.execute("PRAGMA cache_size = -20000")  # KiB
            self._db.execute("PRAGMA wal_autocheckpoint = 4000")  # pages
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.execute("PRAGMA secure_delete = ON")  # what is removed leaves no trace in free pages
            self._migrate()

    def folder_of(self, id: str) -> Path:
        """Give the folder of a run; see :meth:`peft_nb.store.Store.folder_of`."""
        check_name(id)
        folder = self.runs / id
        if folder.resolve() != folder:
            raise StoreError(f"{folder} leads out of the store; remove that link")
        return folder

    def read(self, query: str, **values: Any) -> list[sqlite3.Row]:
        """Ask the index; inside :meth:`writing` it answers with what was written so far."""
        with self._lock, self._explained():
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Write in one transaction, which an error undoes; other threads and processes wait."""
        with self._lock, self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite itself rolls back after some errors
                    self._db.execute("ROLLBACK")
                raise

    def shred(self) -> None:
        """Write the file anew without what was deleted, where no other process reads it at this moment."""
        with self._lock, suppress(sqlite3.OperationalError):
            self._db.execute("VACUUM")  # releases before this one left deleted rows in free pages
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            why = next((why for code, why in REMEDIES.items() if name.startswith(code)), str(error))
            raise StoreError(f"cannot use {self.file}: {why}") from error

    def _migrate(self) -> None:
        with self.writing() as db:  # locked, so that two processes cannot both find an old index
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > len(schema.MIGRATIONS):
                raise StoreError(f"{self.file} was made by a newer peft_nb; upgrade with pip install -U peft_nb")
            for script in schema.MIGRATIONS[version:]:
                for statement in schema.statements(script):
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS)}")


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a folder in the store."""
    if not NAME.fullmatch(name):
        raise StoreError(f"{name!r} cannot name a run; use up to 64 letters, digits, '.', '_' and '-'")


def line_hash(before: str, *values: Any) -> str:
    """Hash a line of the log together with the hash of the line before it; also known to SQL in the index."""
    return sha256(json.dumps([before, *values], ensure_ascii=False))


def sha256(text: str) -> str:
    """Hash a text, to 64 hexadecimal digits; also known to SQL in the index."""
    return hashlib.sha256(text.encode()).hexdigest()

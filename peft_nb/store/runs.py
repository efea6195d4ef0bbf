"""One row a run, one folder a run, and all that happened in it."""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from peft_nb.errors import StoreError, nearest
from peft_nb.events import ACTIVE, Evaluated, Event, Resumed, Status, StatusChanged, StepLogged, from_json, to_json
from peft_nb.store import contents, lineage
from peft_nb.store.connection import Index
from peft_nb.store.facts import Facts, plain
from peft_nb.system import files

HISTORY = "step, epoch, loss, eval_loss, learning_rate, grad_norm, tokens_per_second, memory_mb, elapsed_s"

RECORD = """
    SELECT runs.*, versions.number AS version,
        (SELECT at FROM events WHERE run = runs.id ORDER BY n DESC LIMIT 1) AS heard,
        (SELECT group_concat(alias, ' ') FROM held WHERE name = versions.name AND version = versions.number) AS aliases
    FROM runs LEFT JOIN versions ON versions.run = runs.id
"""

NAME = re.compile(r"(?!\.+$)[\w.-]{1,64}")
NUMBER = re.compile(r"v([1-9]\d{0,8})", re.ASCII)
SILENCE_S = 15 * 60  # processes of other hosts cannot be asked whether they live
PACKAGES = ("torch", "transformers", "peft", "peft_nb")


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

    @property
    def title(self) -> str:
        """Such as ``tickets v2``, or the id of a run that is no version."""
        return f"{self.name} v{self.version}" if self.version else self.id


class Runs(Index):
    """The runs of a store; see :class:`peft_nb.store.Store`."""

    def create(
        self, spec_yaml: str, *, method: str, model: str, name: str | None = None, parents: Sequence[str] = ()
    ) -> str:
        """Enter a new run, owned by this process, and make its folder.

        Parameters
        ----------
        spec_yaml : str
            The spec, as YAML.
        method, model : str
            What the spec says, for listings; the method begins the id.
        name : str, optional
            The user's name for it (letters, digits, ``. _ -``, at most 64); later runs may take the same.
        parents : sequence of str
            Ids of the runs that it is made from, if any.

        Returns
        -------
        str
            The id, such as ``lora-3f9a2c``.
        """
        if name is not None:
            check_name(name)
        id = f"{method}-{secrets.token_hex(3)}"
        while self.folder_of(id).exists() or self._read("SELECT id FROM runs WHERE id = :id", id=id):
            id = f"{method}-{secrets.token_hex(3)}"
        versions = json.dumps(_package_versions())
        with self._writing() as db, files.writing(self.folder_of(id)):
            db.execute(
                "INSERT INTO runs (id, name, method, model, created, spec_yaml, package_versions, owner)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (id, name, method, model, time.time(), spec_yaml, versions, files.owner()),
            )
            for parent in parents:
                db.execute("INSERT INTO parents VALUES (?, ?)", (id, self._row(parent)["id"]))
            self.folder_of(id).mkdir()
        return id

    def folder_of(self, id: str) -> Path:
        """Give the folder of a run: ``runs/<id>``, always inside the store."""
        check_name(id)
        folder = self._runs / id
        if folder.resolve() != folder:
            raise StoreError(f"{folder} leads out of the store; remove that link")
        return folder

    def record(self, id: str, event: Event) -> None:
        """Append an event as it happens, and keep the run's status and history up to date with it.

        An active status makes this process the owner, a final one leaves the run without. ``Resumed`` drops
        the rows of the history after its step. The final status also writes down where the run came from and
        what the files of its adapter hold, and makes a run that finished under a name the next version of it.
        """
        kind, fields = to_json(event)
        ends = isinstance(event, StatusChanged) and event.status not in ACTIVE
        written = contents.hashes(self.folder_of(id) / "adapter") if ends else {}  # nobody need wait for this
        with self._writing() as db:
            row = self._row(id)
            db.execute(
                "INSERT INTO events (run, n, at, kind, fields)"
                " SELECT ?, coalesce(max(n), 0) + 1, ?, ?, ? FROM events WHERE run = ?",
                (id, time.time(), kind, json.dumps(fields), id),
            )
            match event:
                case StatusChanged(status, reason):
                    self._set_status(id, status, reason, files.owner() if status in ACTIVE else None)
                    if ends:
                        lineage.keep(db, id, written)
                    if status == "finished" and row["name"] and not row["version"]:
                        lineage.enter(db, id, row["name"])
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
            merged = json.dumps(json.loads(self._row(id)["metrics"]) | plain(metrics), allow_nan=False)
            db.execute("UPDATE runs SET metrics = ? WHERE id = ?", (merged, id))

    def set_facts(self, id: str, facts: Facts) -> None:
        """Keep what a run needs to be opened again, in place of what was known before."""
        with self._writing() as db:
            self._row(id)
            db.execute("UPDATE runs SET facts = ? WHERE id = ?", (facts.to_json(), id))

    def claim(self, id: str) -> None:
        """Make this process the owner of a run, to resume it; what a killed owner left half-written goes.

        Raises
        ------
        StoreError
            Another living process is at work on it, or it was promoted as it is.
        """
        with self._writing() as db:
            row = self._row(id)
            if row["version"]:
                raise StoreError(f"run {id} is {row['name']} v{row['version']}, which no longer changes; start another")
            if held(row) and row["owner"] != files.owner():
                pid, _, host = row["owner"].split("-", 2)
                raise StoreError(f"run {id} is in use by process {pid} on {host}; stop it there first")
            record = self._record(row)
            self._set_status(id, record.status, record.reason, files.owner())
            db.execute("UPDATE runs SET package_versions = ? WHERE id = ?", (json.dumps(_package_versions()), id))
        files.remove_leftovers(self.folder_of(id))

    def get(self, word: str, *, unfinished: bool = False) -> Record:
        """Look up one run.

        Parameters
        ----------
        word : str
            An id; ``name@v2``; ``name@alias``; or a name alone: then its newest version, or where it has none its
            newest run.
        unfinished : bool, default False
            Whether a name alone means its newest run that is no version yet, if there is any.

        Returns
        -------
        Record
            An active run whose process has died reads as stopped.
        """
        return self._record(self._meant(word, unfinished=unfinished))

    def all(self) -> list[Record]:
        """List every run, newest first."""
        query = f"{RECORD} WHERE removed IS NULL ORDER BY runs.rowid DESC"
        return [self._record(row) for row in self._read(query)]

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

    def curve(self, id: str, most: int = 120) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
        """Read the losses of a run to draw them small: the mean of each of some equal stretches.

        Parameters
        ----------
        id : str
            The run.
        most : int, default 120
            Stretches at most.

        Returns
        -------
        tuple of two lists of (step, loss)
            Training and held-out losses.
        """
        self._row(id)
        found = []
        for loss in ("loss", "eval_loss"):
            parts = f"SELECT step, {loss} AS loss, ntile(:most) OVER (ORDER BY step) AS part FROM history"
            query = f"SELECT max(step), avg(loss) FROM ({parts} WHERE run = :id AND {loss} IS NOT NULL) GROUP BY part"
            found.append([tuple(row) for row in self._read(query, id=id, most=most)])
        losses, evals = found
        return losses, evals

    def _row(self, id: str) -> sqlite3.Row:
        return self._meant(id, "runs.id = :word")

    def _meant(self, word: str, where: str = "", *, unfinished: bool = False, gone: bool = False) -> sqlite3.Row:
        """Find the run that a word means; one that is gone only if asked for."""
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
        for row in self._read(f"{RECORD} WHERE {where} ORDER BY {order} LIMIT 1", word=word, name=name, which=which):
            if row["removed"] is None or gone:
                return row
            raise StoreError(f"{word} was removed on {_time(row['removed']):%Y-%m-%d}; %peft log {row['id']} says why")
        raise StoreError(f"there is no run {word!r} in {self.folder}{nearest(word, self._known('@' in word))}")

    def _known(self, exact: bool) -> list[str]:
        """The words that runs are known by."""
        query = "SELECT id, name FROM runs WHERE removed IS NULL"
        if exact:
            query = "SELECT name || '@' || alias FROM held UNION ALL SELECT name || '@v' || number FROM versions"
        return [word for row in self._read(query) for word in row if word]

    def _set_status(self, id: str, status: Status, reason: str, owner: str | None) -> None:
        values = (status, reason, owner, id)
        self._db.execute("UPDATE runs SET status = ?, reason = ?, owner = ? WHERE id = ?", values)

    def _record(self, row: sqlite3.Row) -> Record:
        orphaned = row["status"] in ACTIVE and not held(row)
        return Record(
            id=row["id"],
            name=row["name"],
            method=row["method"],
            model=row["model"],
            created=_time(row["created"]),
            status="stopped" if orphaned else row["status"],
            reason="its process ended" if orphaned else row["reason"],
            spec_yaml=row["spec_yaml"],
            facts=Facts.from_json(row["facts"]),
            metrics=json.loads(row["metrics"]),
            package_versions=json.loads(row["package_versions"]),
            folder=self.folder_of(row["id"]),
            version=row["version"],
            aliases=tuple(sorted((row["aliases"] or "").split())),
            removed=row["removed"] and _time(row["removed"]),
        )


def held(row: sqlite3.Row) -> bool:
    """Whether a living process is at work on a run."""
    lives = bool(row["owner"]) and files.alive(row["owner"])
    return time.time() - (row["heard"] or row["created"]) < SILENCE_S if lives is None else lives


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a folder in the store."""
    if not NAME.fullmatch(name):
        raise StoreError(f"{name!r} cannot name a run; use up to 64 letters, digits, '.', '_' and '-'")


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions

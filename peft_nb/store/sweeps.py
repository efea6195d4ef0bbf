"""Sweeps on disk: what was asked, each trial with the run that it is, and how far the search came."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from peft_nb.errors import StoreError, nearest
from peft_nb.store.connection import Index, check_name
from peft_nb.store.facts import plain
from peft_nb.system import files

SweepStatus = Literal["running", "finished", "stopped", "failed"]
TrialState = Literal["running", "finished", "pruned", "failed", "stopped"]

UNFINISHED = ("running", "stopped")  # trials that resuming a sweep goes on with

TRIALS = """
    SELECT trials.*, runs.metrics, runs.removed FROM trials LEFT JOIN runs ON runs.id = trials.run
    WHERE sweep = :id ORDER BY number
"""
CURVES = """
    SELECT trials.number, history.step, history.eval_loss FROM trials JOIN history ON history.run = trials.run
    WHERE sweep = :id AND history.step > 0 AND history.eval_loss IS NOT NULL ORDER BY number, step
"""


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep.

    Attributes
    ----------
    number : int
        From 1, in the order in which they began.
    values : dict
        What the varied fields were; fields that its method has no use for are left out.
    state : str
        ``running``, ``finished``, ``pruned`` (stopped early because others were better), ``failed`` or ``stopped``.
    reason : str
        Why it was pruned, failed or stopped.
    run : str or None
        Id of its run; None where it could not begin, or the run was removed.
    metrics : dict
        Of that run.
    losses : tuple of (step, eval loss)
        What was measured while it trained.
    began, seconds : float
        When it began, in seconds since 1970, and how long it has worked.
    """

    number: int
    values: dict[str, Any]
    state: TrialState
    reason: str
    run: str | None
    metrics: dict[str, Any]
    losses: tuple[tuple[int, float], ...]
    began: float
    seconds: float


@dataclass(frozen=True)
class SweepRecord:
    """What the store knows about one sweep; one whose process has died reads as stopped.

    Attributes
    ----------
    id, name : str, str or None
        Such as ``sweep-3f9a2c``, and the user's name for it.
    created : datetime
        In UTC.
    status, reason : str
        ``running``, ``finished``, ``stopped`` or ``failed``, and why.
    spec_yaml : str
        What was asked.
    notes : tuple of str
        What the user should know.
    forecast : dict
        What the whole was expected to take, told before the first trial.
    seconds : float
        How long it has worked.
    trials : tuple of Trial
        In the order in which they began.
    """

    id: str
    name: str | None
    created: datetime
    status: SweepStatus
    reason: str
    spec_yaml: str
    notes: tuple[str, ...] = ()
    forecast: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    trials: tuple[Trial, ...] = field(default=(), repr=False)


class Sweeps:
    """The sweeps of a store; every method raises ``StoreError`` if there is none of that name, or the disk refuses."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def create(self, spec_yaml: str, name: str | None = None) -> str:
        """Enter a new sweep, owned by this process, and give its id."""
        if name is not None:
            check_name(name)
        id = f"sweep-{secrets.token_hex(3)}"
        with self._index.writing() as db:
            db.execute(
                "INSERT INTO sweeps (id, name, created, spec_yaml, owner) VALUES (?, ?, ?, ?, ?)",
                (id, name, time.time(), spec_yaml, files.owner()),
            )
        return id

    def get(self, word: str) -> SweepRecord:
        """Look up one sweep by its id or its name, of which the newest is meant."""
        return self._record(self._find(word))

    def all(self) -> list[SweepRecord]:
        """List every sweep, newest first."""
        return [self._record(row) for row in self._index.read("SELECT * FROM sweeps ORDER BY rowid DESC")]

    def claim(self, id: str, spec_yaml: str) -> None:
        """Make this process the owner of a sweep, to resume it as it is described now.

        Raises
        ------
        StoreError
            Another living process is at work on it.
        """
        with self._index.writing() as db:
            row = self._find(id)
            if row["status"] == "running" and files.alive(row["owner"]) is not False and row["owner"] != files.owner():
                pid, _, host = row["owner"].split("-", 2)
                raise StoreError(f"sweep {id} is in use by process {pid} on {host}; stop it there first")
            values = (spec_yaml, files.owner(), id)
            db.execute(
                "UPDATE sweeps SET status = 'running', reason = '', spec_yaml = ?, owner = ? WHERE id = ?", values
            )

    def note(self, id: str, text: str) -> None:
        """Keep something that the user should know."""
        with self._index.writing() as db:
            notes = [*json.loads(self._find(id)["notes"]), text]
            db.execute("UPDATE sweeps SET notes = ? WHERE id = ?", (json.dumps(notes), id))

    def foretell(self, id: str, forecast: Mapping[str, Any]) -> None:
        """Keep what the whole is expected to take."""
        with self._index.writing() as db:
            db.execute("UPDATE sweeps SET forecast = ? WHERE id = ?", (json.dumps(plain(dict(forecast))), id))

    def worked(self, id: str, seconds: float) -> None:
        """Set how long a sweep has worked."""
        with self._index.writing() as db:
            db.execute("UPDATE sweeps SET seconds = ? WHERE id = ?", (seconds, id))

    def end(self, id: str, status: SweepStatus, reason: str = "") -> None:
        """Say how a sweep ended; it then has no owner."""
        with self._index.writing() as db:
            db.execute("UPDATE sweeps SET status = ?, reason = ?, owner = NULL WHERE id = ?", (status, reason, id))

    def begin_trial(self, id: str, number: int, values: Mapping[str, Any]) -> None:
        """Enter a trial that is about to begin, or that begins again."""
        with self._index.writing() as db:
            db.execute(
                "INSERT INTO trials (sweep, number, vals, began) VALUES (?, ?, ?, ?) ON CONFLICT (sweep, number)"
                " DO UPDATE SET state = 'running', reason = ''",
                (id, number, json.dumps(plain(dict(values))), time.time()),
            )

    def set_run(self, id: str, number: int, run: str) -> None:
        """Say which run a trial is."""
        with self._index.writing() as db:
            db.execute("UPDATE trials SET run = ? WHERE sweep = ? AND number = ?", (run, id, number))

    def end_trial(self, id: str, number: int, state: TrialState, reason: str, seconds: float) -> None:
        """Say how a trial ended, and how many seconds longer it has worked."""
        with self._index.writing() as db:
            db.execute(
                "UPDATE trials SET state = ?, reason = ?, seconds = seconds + ? WHERE sweep = ? AND number = ?",
                (state, reason, seconds, id, number),
            )

    def _find(self, word: str) -> sqlite3.Row:
        query = "SELECT * FROM sweeps WHERE id = :word OR name = :word ORDER BY id = :word DESC, rowid DESC LIMIT 1"
        for row in self._index.read(query, word=word):
            return row
        known = [name for row in self._index.read("SELECT id, name FROM sweeps") for name in (row["id"], row["name"])]
        hint = nearest(word, filter(None, known)) or "; %peft sweep lists them"
        raise StoreError(f"there is no sweep {word!r} in {self._index.folder}{hint}")

    def _record(self, row: sqlite3.Row) -> SweepRecord:
        died = row["status"] == "running" and not (row["owner"] and files.alive(row["owner"]) is not False)
        return SweepRecord(
            id=row["id"],
            name=row["name"],
            created=datetime.fromtimestamp(row["created"], UTC),
            status="stopped" if died else row["status"],
            reason="interrupted (kernel died)" if died else row["reason"],
            spec_yaml=row["spec_yaml"],
            notes=tuple(json.loads(row["notes"])),
            forecast=json.loads(row["forecast"]),
            seconds=row["seconds"],
            trials=tuple(self._trials(row["id"], died)),
        )

    def _trials(self, id: str, died: bool) -> Sequence[Trial]:
        losses: dict[int, list[tuple[int, float]]] = {}
        for row in self._index.read(CURVES, id=id):
            losses.setdefault(row["number"], []).append((row["step"], row["eval_loss"]))
        return [
            Trial(
                number=row["number"],
                values=json.loads(row["vals"]),
                state="stopped" if died and row["state"] == "running" else row["state"],
                reason="interrupted" if died and row["state"] == "running" else row["reason"],
                run=None if row["removed"] else row["run"],
                metrics=json.loads(row["metrics"] or "{}"),
                losses=tuple(losses.get(row["number"], ())),
                began=row["began"],
                seconds=row["seconds"],
            )
            for row in self._index.read(TRIALS, id=id)
        ]

"""What is known of a run: its record in the store, and whoever listens beside it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from peft_nb.errors import StoreError
from peft_nb.events import Event, Listener, Notice
from peft_nb.store import Facts, Record, Store

# What SQLite refuses for what is to be written, not for the state of the disk.
HOPELESS = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)


class RunRecord:
    """A run as the store knows it; what the disk refuses is kept in memory and written later.

    Parameters
    ----------
    record : Record
        The run as it was found.
    store : Store
        Where it lives.
    """

    def __init__(self, record: Record, store: Store) -> None:
        self.id: str = record.id
        self.folder: Path = record.folder
        self._store = store
        self._listeners: list[Listener] = []
        self._writing = threading.RLock()
        self._unwritten: list[Callable[[], None]] = []
        self._refused = False

    @property
    def store(self) -> Store:
        """The store, with what it refused before if it takes that now."""
        self.write()
        return self._store

    @property
    def now(self) -> Record:
        """The run as the store knows it now."""
        return self.store.get(self.id)

    @property
    def status(self) -> str:
        """``created``, ``preparing``, ``training``, ``finished``, ``stopped`` or ``failed``."""
        return self.now.status

    @property
    def metrics(self) -> dict[str, Any]:
        """What was measured."""
        return self.now.metrics

    @property
    def facts(self) -> Facts:
        """What it takes to open the run again."""
        return self.now.facts

    def curve(self) -> list[dict[str, Any]]:
        """All rows logged so far, for a picture; none where the disk refuses, for nothing shall fail for a picture."""
        with suppress(StoreError):
            return self.store.history(self.id)
        return []

    def hear(self, listeners: Sequence[Listener]) -> None:
        """Tell these from now on, and no others."""
        self._listeners = list(listeners)

    def listen(self, listener: Listener) -> list[Event]:
        """Tell one more from now on, and give what was told before."""
        with self._writing:
            self._listeners.append(listener)
            return self.store.events(self.id)

    def publish(self, event: Event) -> None:
        """Keep an event and tell it."""
        with self._writing:  # whoever begins to listen meanwhile shall hear it once
            self.keep(event)
            listeners = list(self._listeners)
        self.tell(event, listeners)

    def keep(self, event: Event) -> None:
        """Keep an event and tell nobody."""
        self.write(partial(self._store.record, self.id, event))

    def set(self, metrics: dict[str, Any], facts: Facts) -> None:
        """Keep what was measured and found out."""
        self.write(
            partial(self._store.set_metrics, self.id, dict(metrics)), partial(self._store.set_facts, self.id, facts)
        )

    def write(self, *writes: Callable[[], None]) -> None:
        """Write, after all that the disk has refused before; what it refuses now is kept for the next time.

        A write that fails otherwise would fail every time: it is dropped, and whoever asked for it gets the error.
        """
        with self._writing:
            self._unwritten += writes
            while self._unwritten:
                write = self._unwritten.pop(0)
                try:
                    write()
                except StoreError as error:
                    if isinstance(error.__cause__, HOPELESS):
                        raise
                    self._unwritten.insert(0, write)
                    if not self._refused:
                        self._refused = True
                        self.tell(Notice(f"{error}; the run goes on in memory"))
                    return

    def tell(self, event: Event, listeners: Sequence[Listener] | None = None) -> None:
        """Tell an event without keeping it; a listener that fails is dropped."""
        for listener in list(self._listeners) if listeners is None else listeners:
            try:
                listener(event)
            except Exception as error:
                if listener in self._listeners:  # else it failed at the notice that another one had
                    self._listeners.remove(listener)
                    self.publish(Notice(f"a listener failed and was dropped: {type(error).__name__}: {error}"))

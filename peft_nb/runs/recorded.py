"""What is known of a run: its record in the store, and whoever listens beside it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from peft_nb.errors import RunError, StoreError
from peft_nb.events import Event, Listener, Notice, Planned
from peft_nb.runs import evaluate
from peft_nb.runs.pipeline import Job
from peft_nb.store import HISTORY, Record, Store

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


class Recorded:
    """A run as the store knows it; what the disk refuses is kept in memory and written later."""

    def __init__(self, record: Record, store: Store, job: Job) -> None:
        self.id, self.spec, self.folder = record.id, job.spec, record.folder
        self._store, self._job = store, job
        self._at_work = False  # this process, on this run
        self._listeners: list[Listener] = []
        self._writing = threading.RLock()
        self._unwritten: list[Callable[[], None]] = []
        self._refused = False
        job.publish = self._publish
        job.curve = self._curve

    def __repr__(self) -> str:
        return f"<Run {self.id} {self.status}>"

    @property
    def status(self) -> str:
        """``created``, ``preparing``, ``training``, ``finished``, ``stopped`` or ``failed``."""
        return self._on_disk().get(self.id).status

    @property
    def reason(self) -> str:
        """Why the run was stopped or failed; empty otherwise."""
        return self._on_disk().get(self.id).reason

    @property
    def metrics(self) -> dict[str, Any]:
        """What was measured; the same numbers are on disk.

        Losses are in nats per supervised token, times in seconds, memory and sizes in MB.
        """
        return self._on_disk().get(self.id).metrics

    @property
    def judgement(self) -> dict[str, Any]:
        """What the numbers of the judgement are made of, as in ``judgement.json``; empty while there is none.

        ``texts`` (per topic, and the worst hit), ``answers`` (held-out rows, the worst first), ``questions`` (those
        lost), ``missing`` (why a metric has no value), ``metrics``.
        """
        file = self.folder / evaluate.JUDGEMENT
        if not self._job.judgement and file.exists():
            self._job.judgement = json.loads(file.read_text(encoding="utf-8"))
        return self._job.judgement

    @property
    def history(self) -> pandas.DataFrame:
        """One row a logged step: loss, held-out loss, learning rate, gradient norm, speed, memory, time."""
        import pandas

        rows = pandas.DataFrame(self._on_disk().history(self.id), columns=HISTORY.split(", "), dtype=float)
        return rows.astype({"step": int})

    @property
    def version(self) -> str | None:
        """Which version of which name it is, such as ``tickets v2``; None for a run that is none."""
        record = self._on_disk().get(self.id)
        return record.title if record.version else None

    def promote(self, alias: str, *, why: str, name: str | None = None, force: bool = False) -> None:
        """Let ``name@alias`` stand for this run from now on.

        Parameters
        ----------
        alias : str
            What it becomes, such as ``production`` or ``candidate``.
        why : str
            The reason, for the log.
        name : str, optional
            Of which name it becomes a version, for a run that has none.
        force : bool, default False
            Promote it although its verdict is a failure or its files are not what they were; logged.

        Raises
        ------
        RunError
            If it has no adapter or no name, or must not be promoted unless forced.
        """
        self._on_disk().promote(self.id, alias, why=why, name=name, force=force)

    def events(self) -> list[Event]:
        """Everything the run has told so far, in order."""
        return self._on_disk().events(self.id)

    def listen(self, listener: Listener) -> list[Event]:
        """Have what an active run tells from now on told to one more listener.

        Parameters
        ----------
        listener : callable
            Told every event from now on until the run ends, in the run's thread.

        Returns
        -------
        list of Event
            Everything the run has told before, in order.
        """
        with self._writing:
            self._listeners.append(listener)
            return self.events()

    def plot(self, what: Literal["loss", "confusion"] = "loss") -> Figure:
        """Draw the loss and the held-out loss over the steps, or what a classifier takes for what.

        Parameters
        ----------
        what : {"loss", "confusion"}, default "loss"
            Which picture.

        Returns
        -------
        matplotlib.figure.Figure
            Shown by a notebook as it is.

        Raises
        ------
        RunError
            If the run has no confusion matrix.
        """
        from peft_nb.plots import confusion, loss_curve

        if what == "confusion":
            if not (counts := (metrics := self.metrics).get("confusion")):
                mend = "one comes of task: classification with held-out rows and one label a text"
                raise RunError(f"run {self.id} has no confusion matrix; {mend}")
            return confusion(metrics["classes"], counts)
        history = self._on_disk().history(self.id)
        return loss_curve(
            [(row["step"], row["loss"]) for row in history if row["loss"] is not None],
            [(row["step"], row["eval_loss"]) for row in history if row["eval_loss"] is not None],
        )

    def _curve(self) -> list[dict[str, Any]]:
        with suppress(StoreError):  # for a picture alone nothing shall fail
            return self._on_disk().history(self.id)
        return []

    def _publish(self, event: Event) -> None:
        with self._writing:  # whoever begins to listen meanwhile shall hear it once
            self._record(event)
            listeners = list(self._listeners)
        self._tell(event, listeners)

    def _record(self, event: Event) -> None:
        self._write(partial(self._store.record, self.id, event))
        if isinstance(event, Planned):  # what was chosen, such as the data type, outlives a killed process
            self._write(partial(self._store.set_metrics, self.id, dict(self._job.metrics)))

    def _write(self, *writes: Callable[[], None]) -> None:
        """Write, after all that the disk has refused before; what it refuses now is kept for the next time."""
        with self._writing:
            self._unwritten += writes
            try:
                while self._unwritten:
                    self._unwritten[0]()
                    del self._unwritten[0]
            except StoreError as error:
                if not self._refused:
                    self._refused = True
                    self._tell(Notice(f"{error}; the run goes on in memory"))

    def _on_disk(self) -> Store:
        """The store, with what it refused before if it takes that now."""
        self._write()
        return self._store

    def _tell(self, event: Event, listeners: Sequence[Listener] | None = None) -> None:
        for listener in list(self._listeners) if listeners is None else listeners:
            try:
                listener(event)
            except Exception as error:
                self._listeners.remove(listener)
                self._publish(Notice(f"a listener failed and was dropped: {type(error).__name__}: {error}"))

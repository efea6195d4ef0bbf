"""The life of one run: a worker thread, stop, wait, resume."""

from __future__ import annotations

import shutil
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from peft_nb.errors import PeftNbError, RunError, SpecError
from peft_nb.events import ACTIVE, Listener, Notice, Preparing, Status, StatusChanged
from peft_nb.methods import problems
from peft_nb.runs import evaluate
from peft_nb.runs.pipeline import Job
from peft_nb.runs.trained import Trained
from peft_nb.spec import RunSpec
from peft_nb.store import Record, Store
from peft_nb.training.stop import Abandoned, StopFlag

if TYPE_CHECKING:
    import pandas

TICK_S = 0.1

_running: dict[str, Run] = {}


class Run(Trained):
    """One execution of a spec; made by :func:`peft_nb.train`, ``%%peft`` or :func:`peft_nb.load`.

    Attributes
    ----------
    id : str
        Its name in the store, such as ``lora-3f9a2c``.
    spec : RunSpec
        What was asked for.
    folder : Path
        Its folder in the store.
    """

    def __init__(self, record: Record, store: Store, job: Job) -> None:
        super().__init__(record, store, job)
        self._over = threading.Event()
        self._over.set()
        self._error: PeftNbError | None = None

    def stop(self, *, now: bool = False) -> None:
        """Ask the run to end; it does so after the current step, saved and usable.

        Parameters
        ----------
        now : bool
            Give up the current step as well; what the last checkpoint holds is kept.

        Raises
        ------
        RunError
            If another process is at work on it.
        """
        if not self._at_work and (status := self.status) in ACTIVE:
            raise RunError(f"run {self.id} is {status} in another process; stop it there")
        self._job.stop.soon.set()
        if now:
            self._job.stop.now.set()

    def wait(self, timeout: float | None = None, tick: Callable[[], None] | None = None) -> Run:
        """Block until the run is over.

        The first interrupt of the kernel stops the run after its current step, the second gives up at once.

        Parameters
        ----------
        timeout : float, optional
            Seconds after which to return anyway.
        tick : callable, optional
            Called about ten times a second in the calling thread.

        Returns
        -------
        Run
            This run.

        Raises
        ------
        PeftNbError
            What made the run fail, in one line; or that it was given up.
        """
        until = None if timeout is None else time.monotonic() + timeout
        interrupted = False
        while until is None or time.monotonic() < until:
            try:  # an interrupt is dealt with in here too, where the next one cannot escape
                if interrupted:
                    interrupted = False
                    self._heed_interrupt()
                over = self._over.wait(TICK_S)
                if tick:
                    tick()
                if over:
                    break
            except KeyboardInterrupt:
                interrupted = True
        if self._over.is_set() and self._error is not None:
            raise self._error
        return self

    def resume(self, *, background: bool = False, listeners: Sequence[Listener] = ()) -> Run:
        """Go on from the last checkpoint: weights, optimizer, schedule, order of the data and curve.

        Parameters
        ----------
        background : bool
            Return at once instead of waiting for the end.
        listeners : sequence of callable
            Told every event.

        Returns
        -------
        Run
            This run.

        Raises
        ------
        RunError
            If the run is active or has finished.
        StoreError
            If it was promoted as it is.
        """
        status = self.status
        if status in ACTIVE:
            raise RunError(f"run {self.id} is {status} already")
        if status == "finished":
            raise RunError(f"run {self.id} has finished; for more training start a new run with more epochs")
        self._store.claim(self.id)
        self._job.history = self._store.history(self.id)
        self._start(listeners, resume=True)
        return self if background else self.wait()

    def _heed_interrupt(self) -> None:
        if self._job.stop.soon.is_set():
            self.stop(now=True)
            kept = "its last checkpoint is kept, resume() goes on from there"
            raise RunError(f"run {self.id} was given up at once; {kept}")
        self.stop()
        self._tell(Preparing("stopping after this step; interrupt again to give up at once"))

    def _start(self, listeners: Sequence[Listener], *, resume: bool) -> None:
        self._listeners = list(listeners)
        self._error = None
        self._job.stop = StopFlag()
        self._over.clear()
        for other in active():
            self._publish(Notice(f"run {other.id} is training in this kernel too; both will be much slower"))
        _running[self.id], self._at_work = self, True
        threading.Thread(target=self._work, args=(resume,), name=f"peft_nb-{self.id}", daemon=True).start()

    def _work(self, resume: bool) -> None:
        status: Status = "failed"
        reason, story = "", self.folder / "error.txt"
        try:
            self._publish(StatusChanged("preparing"))
            if self._job.perform(resume=resume):
                status = "finished"
            else:
                status, reason = "stopped", f"after step {self._job.metrics.get('steps', 0)}"
        except Abandoned as error:
            status, reason = "stopped", str(error) or "given up at once"
        except PeftNbError as error:
            self._error, reason = error, str(error)
            # What led to it would hold the model and the optimizer in memory.
            error.__traceback__ = error.__cause__ = error.__context__ = None
        except BaseException as error:
            line = next(iter(str(error).strip().splitlines()), "")
            reason = f"{type(error).__name__}: {line}"
            self._error = RunError(f"{reason} (the whole story is in {story})")
            with suppress(OSError):
                story.write_text(traceback.format_exc(), encoding="utf-8")
        self._finish(status, reason)

    def _finish(self, status: Status, reason: str) -> None:
        """Put everything in place, then tell the listeners, and last whoever waits."""
        self._write(partial(self._store.set_metrics, self.id, dict(self._job.metrics)))
        if status == "finished":
            self._write(partial(self._store.evaluate, self.id, evaluate.evaluations(self._job.metrics)))
        self._record(StatusChanged(status, reason))
        if status == "finished":  # and known to be: whoever is killed before can resume
            shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        _running.pop(self.id, None)
        self._at_work = False
        self._tell(StatusChanged(status, reason))
        self._over.set()


def begin(
    spec: RunSpec,
    *,
    data: object = None,
    eval_data: object = None,
    model: object = None,
    score: object = None,
    namespace: Mapping[str, Any] | None = None,
    listeners: Sequence[Listener] = (),
    store: Store | None = None,
) -> Run:
    """Start a run and return at once.

    Parameters
    ----------
    spec : RunSpec
        What to do.
    data, eval_data, model, score : object, optional
        Two tables, a ``(model, tokenizer)`` pair and a function in place of the names in the spec.
    namespace : mapping, optional
        The notebook's variables, where names are looked up first.
    listeners : sequence of callable
        Told every event, in the worker's thread.
    store : Store, optional
        Where the run lives; default ``peft_runs`` in the working folder.

    Returns
    -------
    Run
        Preparing or training.

    Raises
    ------
    SpecError, DataError
        What can be found wrong before anything is loaded.
    """
    if wrong := problems(spec):
        raise SpecError(wrong)
    job = Job(spec, data=data, eval_data=eval_data, model=model, score=score, namespace=namespace or {})
    job.rows.read()
    evaluate.check(spec, job.rows, score, job.namespace)
    store = store or Store()
    id = store.create(job.spec.to_yaml(), method=spec.method, model=spec.model, name=spec.name)
    record = store.get(id)
    job.folder = record.folder
    run = Run(record, store, job)
    run._start(listeners, resume=False)
    return run


def load(name: str, *, model: Any = None, store: Store | None = None) -> Run:
    """Open a run from the store, in whatever process it was made.

    Parameters
    ----------
    name : str
        Its id; ``name@v2``; ``name@alias``, such as ``tickets@production``; or a name alone for its newest version.
    model : tuple, optional
        The live ``(model, tokenizer)`` pair, if the run was started on one.
    store : Store, optional
        Where to look; default ``peft_runs`` in the working folder.

    Returns
    -------
    Run
        Ready for ``generate``, ``history``, ``resume``, ``save``.

    Raises
    ------
    StoreError
        If there is no such run.
    """
    store = store or Store()
    record = store.get(name)
    if record.id in _running and _running[record.id].folder == record.folder:
        return _running[record.id]
    spec = RunSpec.from_yaml(record.spec_yaml)
    return Run(record, store, Job(spec, record.folder, model=model, metrics=record.metrics))


def runs(store: Store | None = None) -> pandas.DataFrame:
    """List the runs of the store, newest first.

    Parameters
    ----------
    store : Store, optional
        Default ``peft_runs`` in the working folder.

    Returns
    -------
    pandas.DataFrame
        One row a run: id, name, version, aliases, method, model, status, when it was made and its main metrics.
    """
    import pandas

    shown = ("train_loss", "base_eval_loss", "eval_loss", "train_seconds")
    rows = [
        {
            "id": record.id,
            "name": record.name,
            "version": f"v{record.version}" if record.version else "",
            "aliases": ", ".join(record.aliases),
            "method": record.method,
            "model": record.model,
            "status": record.status,
            "created": record.created.replace(microsecond=0),
            **{name: record.metrics.get(name) for name in shown},
        }
        for record in (store or Store()).all()
    ]
    columns = ["id", "name", "version", "aliases", "method", "model", "status", "created", *shown]
    return pandas.DataFrame(rows, columns=columns).set_index("id")


def active() -> list[Run]:
    """The runs that are at work in this process."""
    return list(_running.values())

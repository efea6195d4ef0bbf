"""The life of one run: a worker thread, stop, wait, resume, and what can be asked of it afterwards."""

from __future__ import annotations

import json
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

from peft_nb import judging
from peft_nb.adapters import Form
from peft_nb.data.prompts import Prompt
from peft_nb.errors import PeftNbError, RunError, SpecError, StoreError
from peft_nb.events import ACTIVE, Event, Listener, Notice, Planned, Preparing, Status, StatusChanged
from peft_nb.files import atomic_text
from peft_nb.job import Job
from peft_nb.methods import problems
from peft_nb.spec import RunSpec
from peft_nb.store import HISTORY, Record, Store
from peft_nb.training.stop import Abandoned, StopFlag

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from peft_nb.adapters.merge import Merged

TICK_S = 0.1

_running: dict[str, Run] = {}
_answering = threading.RLock()  # a model without its adapter for the one must not answer the other


class Run:
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
        self.id, self.spec, self.folder = record.id, job.spec, record.folder
        self._store, self._job = store, job
        self._listeners: list[Listener] = []
        self._over = threading.Event()
        self._over.set()
        self._error: PeftNbError | None = None
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
        file = self.folder / judging.JUDGEMENT
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
    def adapter_dir(self) -> Path:
        """Folder of the adapter, which plain PEFT can load.

        Raises
        ------
        RunError
            If no adapter has been written yet.
        """
        folder, status = self.folder / "adapter", self.status
        if not folder.is_dir():
            mend = "wait() for it" if status in ACTIVE else "resume() it"
            raise RunError(f"run {self.id} is {status} and has written no adapter yet; {mend} first")
        return folder

    @property
    def model(self) -> PeftModel:
        """The base with the trained adapter; loaded from disk when the run was.

        Raises
        ------
        RunError
            If the run is still training, or never got as far as an adapter.
        """
        if self in active():
            raise RunError(f"run {self.id} is {self.status}; call wait() or stop() before using its model")
        if self._job.adapted is None:
            self._job.load_adapter(self.adapter_dir)
        return self._job.adapted

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer."""
        return self.model and self._job.tokenizer

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

    @overload
    def generate(self, prompt: str, *, adapter: bool = True, **options: Any) -> str: ...
    @overload
    def generate(self, prompt: Sequence[Prompt], *, adapter: bool = True, **options: Any) -> list[str]: ...
    def generate(self, prompt: str | Sequence[Prompt], *, adapter: bool = True, **options: Any) -> str | list[str]:
        """Answer one prompt or many.

        Parameters
        ----------
        prompt : str or sequence
            What to answer, rendered exactly as in training: a text, or several, each a text or the messages of a
            conversation. While one call is answered another waits.
        adapter : bool
            ``False`` asks the bare base.
        **options
            ``max_new_tokens`` (default 128), ``temperature`` (default 0: always the likeliest token) and ``seed``;
            ``listen``, a function that gets the list of answers so far after every token, and ends them by
            returning True.

        Returns
        -------
        str or list of str
            One answer a prompt.

        Raises
        ------
        RunError
            If the run is still training, or learned to classify.
        """
        if self._job.rows.classifies:
            raise RunError(f"run {self.id} gives texts labels and writes none; call predict() on it")
        from contextlib import nullcontext

        from peft_nb.evaluation.generate import generate

        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        with _answering, nullcontext() if adapter else self.model.disable_adapter():
            answers = generate(
                self.model, self._job.tokenizer, prompts, chat=self._job.chat, system=self.spec.system, **options
            )
        return answers[0] if isinstance(prompt, str) else answers

    def predict(self, texts: str | Sequence[str]) -> pandas.DataFrame:
        """Say which class each text has; for a run with ``task: classification``.

        Parameters
        ----------
        texts : str or sequence of str
            What to classify, cut as in training where it is too long.

        Returns
        -------
        pandas.DataFrame
            One row a text: ``text``, ``label``, ``probability``, and a column with the probability of each class.
            Where a text can have several classes, ``label`` and ``probability`` list those with 0.5 or more.

        Raises
        ------
        RunError
            If the run learned to write texts, or something is not a text.
        """
        if not self._job.rows.classifies:
            raise RunError(f"run {self.id} writes texts and knows no classes; call generate() on it")
        found = [texts] if isinstance(texts, str) else list(texts)
        if wrong := [type(one).__name__ for one in found if not isinstance(one, str)]:
            raise RunError(f"predict() takes texts, and found a {wrong[0]} among them; turn it into text or drop it")
        from peft_nb.evaluation.classification import predict

        model, job = self.model, self._job
        return predict(model, job.tokenizer, found, job.rows.classes, job.metrics["max_tokens"])

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
        if self not in active() and (status := self.status) in ACTIVE:
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

    def save(self, path: str | Path) -> Path:
        """Write the adapter as a plain PEFT folder with safetensors, config, model card and curves.

        Parameters
        ----------
        path : str or Path
            The folder to make.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        StoreError
            If the disk refuses; nothing half-written stays and the run keeps its model.
        """
        from peft_nb.adapters.save import save

        model, job = self.model, self._job
        return save(
            model,
            Path(path).expanduser(),
            self.spec,
            self.metrics,
            tokenizer=job.tokenizer,
            history=job.curve(),
            data=job.data_told(),
        )

    def export(self, path: str | Path, as_: Form = "script", namespace: Mapping[str, Any] | None = None) -> Path:
        """Write the run in a form that others can use.

        Parameters
        ----------
        path : str or Path
            The folder to make; for ``yaml`` the file.
        as_ : {"script", "yaml", "adapter", "merged"}, default "script"
            A folder with ``train.py``, which trains the same adapter with PyTorch, transformers and PEFT alone, and
            the data that it reads; the spec; the adapter, as :meth:`save` does; or the base with the adapter in it.
        namespace : mapping, optional
            The notebook's variables, where a script's rows may have to be found again; without the rows, their token
            ids are written.

        Returns
        -------
        Path
            What was written; of a script its ``train.py``.

        Raises
        ------
        RunError
            If the run cannot be written so.
        StoreError
            If the disk refuses, or something else would be lost; nothing half-written stays.
        """
        target = Path(path).expanduser()
        if as_ == "adapter":
            return self.save(target)
        if as_ == "merged":
            self.merge(target)
            return target
        if as_ == "yaml":
            text = self.spec.to_yaml()
            if target.exists() and (target.is_dir() or target.read_text(encoding="utf-8", errors="replace") != text):
                raise StoreError(f"cannot write {target}: it holds something else; choose another name")
            atomic_text(target, text)
            return target
        if as_ != "script":
            raise RunError(f"as_: {as_!r} is not one of {', '.join(get_args(Form))}")
        if self in active():
            raise RunError(f"run {self.id} is {self.status}; call wait() or stop() before exporting it")
        return self._job.script(target, namespace or {})

    def merge(
        self, path: str | Path, *, dtype: str | None = None, max_kl: float = 0.005, prompts: Sequence[str] | None = None
    ) -> Merged:
        """Write a plain model with the adapter folded into its weights, once it is proven to do the same.

        Parameters
        ----------
        path : str or Path
            The folder to make: safetensors, configuration, tokenizer and README.
        dtype : {"float32", "bfloat16", "float16"}, optional
            Number format of the weights; by default the one the run computed in.
        max_kl : float
            Largest mean KL divergence from the live model, in nats per token (of a classifier, per text).
        prompts : sequence of str, optional
            What to compare answers to; by default held-out rows, else training rows, else built-in prompts.

        Returns
        -------
        Merged
            Shows itself as a table.

        Raises
        ------
        MergeError
            If no candidate is that near to the live model; nothing is kept.
        MethodError
            If what the method trains cannot be folded into weights.
        StoreError
            If the folder holds something, or the disk refuses; nothing half-written stays.
        """
        from peft_nb.adapters import merge

        job, metrics, folder = self._job, self.metrics, Path(path).expanduser()
        dtype = dtype or metrics.get("dtype") or "float32"
        merge.check(self.spec, metrics, folder, dtype, max_kl)
        examples, judged_on = job.judged_by(self.model, prompts)
        options: dict[str, Any] = {"dtype": dtype, "max_kl": max_kl}
        return merge.merge(
            self.model, job.tokenizer, folder, job._source(), self.spec, metrics, examples, judged_on, **options
        )

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
        _running[self.id] = self
        threading.Thread(target=self._work, args=(resume,), name=f"peft_nb-{self.id}", daemon=True).start()

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
            self._write(partial(self._store.evaluate, self.id, judging.evaluations(self._job.metrics)))
        self._record(StatusChanged(status, reason))
        if status == "finished":  # and known to be: whoever is killed before can resume
            shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        _running.pop(self.id, None)
        self._tell(StatusChanged(status, reason))
        self._over.set()


def begin(
    spec: RunSpec,
    *,
    data: object = None,
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
    data, model, score : object, optional
        A table, a ``(model, tokenizer)`` pair and a function in place of the names in the spec.
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
    job = Job(spec, data=data, model=model, score=score, namespace=namespace or {})
    job.rows.read()
    judging.check(spec, job.rows, score, job.namespace)
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
            "created": record.created,
            **{name: record.metrics.get(name) for name in shown},
        }
        for record in (store or Store()).all()
    ]
    columns = ["id", "name", "version", "aliases", "method", "model", "status", "created", *shown]
    return pandas.DataFrame(rows, columns=columns).set_index("id")


def active() -> list[Run]:
    """The runs that are at work in this process."""
    return list(_running.values())

"""One run, as a notebook holds it: started, watched, stopped, asked, saved."""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from peft_nb.adapters import exporters
from peft_nb.adapters.exporters import Exportable, Exported
from peft_nb.data.prompts import Prompt
from peft_nb.data.sources import BUILTIN
from peft_nb.data.table import Table
from peft_nb.errors import PeftNbError, RunError, SpecError
from peft_nb.events import (
    ACTIVE,
    Event,
    Listener,
    Notice,
    Planned,
    Preparing,
    Progress,
    Scored,
    Status,
    StatusChanged,
    silent,
)
from peft_nb.methods import complete, problems
from peft_nb.models import ALIASES
from peft_nb.models.resolve import holds_a_model
from peft_nb.runs import documents, evaluate, executors, init_adapter, pipeline, reporters, rewards, rows
from peft_nb.runs.adapter import Adapter
from peft_nb.runs.context import Context, Inputs
from peft_nb.runs.executors import EXECUTORS, ray
from peft_nb.runs.executors.thread import Thread
from peft_nb.runs.record import RunRecord
from peft_nb.spec import RunSpec
from peft_nb.spec.paths import absolute
from peft_nb.spec.place import Place
from peft_nb.store import HISTORY, Facts, Record, Store, find
from peft_nb.system import frontend
from peft_nb.system.files import atomic_text
from peft_nb.tasks import TASKS
from peft_nb.training.stop import Abandoned, StopFlag

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from peft_nb.adapters.merge import Merged
    from peft_nb.runs.explain import Explanation

TICK_S = 0.1

_running: dict[str, Run] = {}


class Run:
    """One execution of a spec; made by :func:`peft_nb.train`, ``%%peft`` or :func:`peft_nb.load`.

    It holds its record in the store, its adapter, and what executes it.

    Attributes
    ----------
    id : str
        Its name in the store, such as ``lora-3f9a2c``.
    spec : RunSpec
        What was asked for.
    folder : Path
        Its folder in the store.
    record : RunRecord
        What is known of it.
    adapter : Adapter
        What it has learned.
    place : Place
        Where it was last begun or resumed by this process.
    """

    def __init__(self, record: Record, store: Store, spec: RunSpec, inputs: Inputs | None = None) -> None:
        self.id, self.folder, self.spec = record.id, record.folder, complete(spec)
        self.inputs = inputs or Inputs()
        self.record = RunRecord(record, store)
        self.adapter = Adapter(self.spec, self.inputs, self.record, lambda: self.at_work)
        self.at_work = False  # this process, on this run
        self.place = Place()
        self._thread = Thread()
        self._error: PeftNbError | None = None
        self._evaluation: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<Run {self.id} {self.status}>"

    # ---- what is known

    @property
    def store(self) -> Store:
        """The store it lives in."""
        return self.record.store

    @property
    def status(self) -> str:
        """``created``, ``preparing``, ``training``, ``finished``, ``stopped`` or ``failed``."""
        return self.record.status

    @property
    def reason(self) -> str:
        """Why the run was stopped or failed; empty otherwise."""
        return self.record.now.reason

    @property
    def metrics(self) -> dict[str, Any]:
        """What was measured; the same numbers are on disk.

        Losses are in nats per supervised token, times in seconds, memory and sizes in MB.
        """
        return self.record.metrics

    @property
    def facts(self) -> Facts:
        """What it takes to open the run again: base, data, layout, dtype, and what its task found out."""
        return self.record.facts

    @property
    def judgement(self) -> dict[str, Any]:
        """What the numbers of the judgement are made of, as in ``judgement.json``; empty while there is none.

        ``texts`` (per topic, and the largest increases), ``answers`` (of the evaluation set, the worst first),
        ``questions`` (those lost), ``missing`` (why a metric has no value), ``metrics``.
        """
        file = self.folder / evaluate.EVALUATION
        if not self._evaluation and file.exists():
            self._evaluation = json.loads(file.read_text(encoding="utf-8"))
        return self._evaluation

    @property
    def history(self) -> pandas.DataFrame:
        """One row a logged step: loss, eval loss, learning rate, gradient norm, speed, memory, time.

        On a GPU ``memory_mb`` is the GPU's, with ``host_memory_mb`` beside it. What a task measures besides has columns
        of its own, such as ``accuracy`` or ``margin``.
        """
        import pandas

        found = pandas.DataFrame(self.store.history(self.id), columns=HISTORY.split(", "), dtype=float)
        if found["host_memory_mb"].isna().all():
            del found["host_memory_mb"]
        scored: dict[int, dict[str, float]] = {}
        for event in self.events():
            if isinstance(event, Scored):
                scored.setdefault(event.step, {}).update(event.metrics)
        return found.astype({"step": int}).join(pandas.DataFrame.from_dict(scored, orient="index"), on="step")

    @property
    def version(self) -> str | None:
        """Which version of which name it is, such as ``tickets v2``; None for a run that is none."""
        record = self.record.now
        return record.title if record.version else None

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags, in order; they are no part of the spec and change nothing of what the run is."""
        return self.record.now.tags

    def tag(self, *names: str) -> None:
        """Put tags on the run, also while it is at work, by which ``%peft runs`` finds it.

        Parameters
        ----------
        *names : str
            Such as ``baseline``; up to 64 letters, digits, ``.``, ``_`` and ``-`` each.

        Raises
        ------
        StoreError
            If a name will not do; then none of them is put on.
        """
        self.store.tag(self.id, *names)

    def untag(self, *names: str) -> None:
        """Take tags off the run.

        Parameters
        ----------
        *names : str
            Some of :attr:`tags`.

        Raises
        ------
        StoreError
            If the run has no such tag; then none of them is taken off.
        """
        self.store.untag(self.id, *names)

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
        self.store.promote(self.id, alias, why=why, name=name, force=force)

    def events(self) -> list[Event]:
        """Everything the run has told so far, in order."""
        return self.store.events(self.id)

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
        return self.record.listen(listener)

    def plot(self, what: Literal["loss", "confusion"] = "loss") -> Figure:
        """Draw the loss and the eval loss over the steps, or what a classifier takes for what.

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
            if not (counts := self.metrics.get("confusion")):
                fix = "one comes of task: classification with an evaluation set and one label per text"
                raise RunError(f"run {self.id} has no confusion matrix; {fix}")
            return confusion(self.facts.task["classes"], counts)
        losses, eval_losses = _curves(self.store.history(self.id))
        return loss_curve(losses, eval_losses, unit=TASKS[self.spec.task].loss_unit)

    # ---- its life

    def stop(self, *, now: bool = False) -> None:
        """Ask the run to end; it does so after the current step, saved and usable.

        Parameters
        ----------
        now : bool
            Give up the current step as well; what the last checkpoint holds is kept. A run whose cluster cannot be
            reached is taken for stopped.

        Raises
        ------
        RunError
            If another process is at work on it, or its cluster cannot be reached.
        """
        if not self.at_work and (status := self.status) in ACTIVE:
            if not self.away:
                raise RunError(f"run {self.id} is {status} in another process; stop it there")
            try:
                self.attach()
            except RunError:
                if not now:
                    raise
                self._give_up()
                return
        self._thread.stop(now=now)

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
            What made the run fail, in one line; or that it was aborted.
        """
        if not self.at_work and self.away:
            self.attach()
        until = None if timeout is None else time.monotonic() + timeout
        interrupted = False
        while until is None or time.monotonic() < until:
            try:  # an interrupt is dealt with in here too, where the next one cannot escape
                if interrupted:
                    interrupted = False
                    self._handle_interrupt()
                over = self._thread.wait(TICK_S)
                if tick:
                    tick()
                if over:
                    break
            except KeyboardInterrupt:
                interrupted = True
        if self._thread.wait(0) and self._error is not None:
            raise self._error
        return self

    @property
    def away(self) -> bool:
        """Whether a cluster is at work on the run and no process here follows it: one that did may have ended."""
        record = self.record.now
        return record.status in ACTIVE and record.facts.place is not None and not self.store.held(self.id)

    def attach(self, listeners: Sequence[Listener] = ()) -> None:
        """Follow a run again that is at work on a cluster, and return at once.

        Parameters
        ----------
        listeners : sequence of callable
            Told every event from now on.

        Raises
        ------
        RunError
            If another process follows it, or the cluster cannot be reached.
        """
        if not self.away:
            raise RunError(f"run {self.id} is {self.status}, and on no cluster without a process that follows it")
        self.place = Place(on="ray")
        follow = ray.found(str(self.facts.place), self.id, self.events())  # before anything is changed
        self.store.claim(self.id)
        self._begin(listeners, follow, Context(self.spec, self.inputs, self.folder, self.facts, self.metrics))

    def resume(self, *, background: bool = False, listeners: Sequence[Listener] = (), **where: Any) -> Run:
        """Resume from the last checkpoint: weights, optimizer, schedule, order of the data and curve.

        Parameters
        ----------
        background : bool
            Return at once instead of waiting for the end.
        listeners : sequence of callable
            Told every event.
        **where
            Where to go on: ``on``, ``workers``, ``cpus``, ``gpus`` and ``keep`` as of :func:`peft_nb.train`; by default
            in this process, wherever the run began.

        Returns
        -------
        Run
            This run.

        Raises
        ------
        RunError
            If the run is active or has finished, or a function that scores or rewards answers has to be passed again.
        SpecError
            If there is no function of the name that scores or rewards them, or the adapter to start from is gone.
        StoreError
            If it was promoted as it is.
        """
        place, status = Place.of(**where), self.status
        if status in ACTIVE:
            raise RunError(f"run {self.id} is {status} already")
        if status == "finished":
            raise RunError(f"run {self.id} has finished; for more training start a new run with more epochs")
        init_adapter.needed(Context(self.spec, folder=self.folder))  # told now, not when the base is loaded
        if "answers" in self.adapter.task.evaluator().parts(self.spec):  # told now, not when all is trained
            evaluate.score_of(self.spec, self.inputs)
        rewards.of(self.spec, self.inputs)
        executors.refuse(place, self.spec, self.inputs)
        self.store.claim(self.id)
        self.start(listeners, place=place)
        return self if background else self.wait()

    def start(
        self,
        listeners: Sequence[Listener],
        table: Table | None = None,
        facts: Facts | None = None,
        note: str = "",
        place: Place | None = None,
    ) -> None:
        """Have the run executed: from its beginning with its rows and what they say, else from its last checkpoint."""
        record, self.place = self.record, place or Place()
        context = Context(self.spec, self.inputs, self.folder, facts or record.facts, record.metrics)
        context.history = [] if table else self.store.history(self.id)
        executor = EXECUTORS[self.place.kind](self.place)

        def train(context: Context) -> pipeline.Outcome:
            context.publish(StatusChanged("preparing"))
            return executor.train(context, table, hold=self.adapter.hold, curve=record.curve)

        self._begin(listeners, train, context, note)

    def _begin(
        self,
        listeners: Sequence[Listener],
        train: Callable[[Context], pipeline.Outcome],
        context: Context,
        note: str = "",
    ) -> None:
        """Have the run looked after by a thread."""
        record = self.record
        context.keep = lambda: record.set(context.metrics, context.facts)

        def publish(event: Event) -> None:
            record.publish(event)
            if isinstance(event, Planned):  # what was chosen, such as the data type, outlives a killed process
                context.keep()

        trackers = [
            reporters.Reporter(name, self.spec, self.id, self.folder, record.publish)
            for name in self.spec.report_to
            if name in reporters.CALLBACKS
            for name in self.spec.report_to
            if name in reporters.CALLBACKS
        ]
        record.hear([*listeners, *trackers])
        if note:
            record.publish(Notice(note))
        self._error = None
        for other in [one for one in active() if self.place.near and one.place.near]:
            record.publish(Notice(f"run {other.id} is training in this kernel too; both will be much slower"))
        _running[self.id], self.at_work = self, True
        self._thread.start(partial(self._work, context, train), publish, f"peft_nb-{self.id}")

    # ---- what it learned

    @property
    def adapter_dir(self) -> Path:
        """Folder of the adapter, which plain PEFT can load.

        Raises
        ------
        RunError
            If no adapter has been written yet.
        """
        return self.adapter.folder

    @property
    def model(self) -> PeftModel:
        """The base with the trained adapter; loaded from disk when the run was.

        Raises
        ------
        RunError
            If the run is still training, or never got as far as an adapter.
        """
        return self.adapter.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer."""
        return self.adapter.tokenizer

    @overload
    def generate(self, prompt: str, *, adapter: bool = True, documents: Any = None, **options: Any) -> str: ...
    @overload
    def generate(
        self, prompt: Sequence[Prompt], *, adapter: bool = True, documents: Any = None, **options: Any
    ) -> list[str]: ...
    def generate(
        self, prompt: str | Sequence[Prompt], *, adapter: bool = True, documents: Any = None, **options: Any
    ) -> str | list[str]:
        """Answer one prompt or many.

        Parameters
        ----------
        prompt : str or sequence
            What to answer, rendered exactly as in training: a text, or several, each a text or the messages of a
            conversation. While one call is answered another waits.
        adapter : bool
            ``False`` asks the base model.
        documents : bool or Index, optional
            Whether what an index holds on each question is put before it, by default if the run learned with
            documents (``documents`` in its spec); or another index. :meth:`retrieve` shows them.
        **options
            ``max_new_tokens`` (default 128), ``temperature`` (default 0: greedy decoding) and ``seed``;
            ``listen``, a function that gets the list of answers so far after every token, and ends them by
            returning True.

        Returns
        -------
        str or list of str
            One answer a prompt.

        Raises
        ------
        RunError
            If the run is still training, or its task writes no texts.
        DataError, StoreError
            If no index is meant by ``documents``, or it is gone.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        answers = self.adapter.generate(prompts, adapter, documents=documents, **options)
        return answers[0] if isinstance(prompt, str) else answers

    def retrieve(self, prompt: str, documents: Any = None) -> pandas.DataFrame:
        """Show the documents that :meth:`generate` puts before a question, in order.

        Parameters
        ----------
        prompt : str
            The question.
        documents : bool or Index, optional
            As of :meth:`generate`.

        Returns
        -------
        pandas.DataFrame
            One row a document, by the number that answers cite it by: ``source``, ``place``, ``text``, ``score``.

        Raises
        ------
        RunError, DataError
            If the run learned from plain texts; if no index is meant.
        """
        import pandas

        _, (found,) = self.adapter.retrieve([prompt], True if documents is None else documents)
        index = pandas.RangeIndex(1, len(found) + 1, name="document")
        return pandas.DataFrame([vars(one) for one in found], index, ["source", "place", "text", "score"])

    def predict(self, inputs: Any) -> pandas.DataFrame:
        """Say what the model says of texts, images or clips, or draw; for a run whose task answers no prompts.

        Parameters
        ----------
        inputs : str or sequence of str, or one image or clip or several
            What to ask about: texts, cut as in training where they are too long; images as paths, PIL images, arrays
            of shape ``(height, width, 3)`` or the bytes of files; clips as paths, dicts of ``array`` and
            ``sampling_rate`` or the bytes of files.

        Returns
        -------
        pandas.DataFrame
            One row an input. Of a classifier ``text`` or ``image``, ``label``, ``probability``, and a column with the
            probability of each class; where there can be several classes, ``label`` and ``probability`` list those
            with 0.5 or more. Of speech ``audio``, ``text``, and ``seconds``. Of one that draws ``prompt`` and
            ``image``, always from the same seeds.

        Raises
        ------
        RunError
            If the run learned to write texts, or something is not a text, an image or a clip.
        """
        return self.adapter.predict(inputs)

    def explain(
        self,
        prompt: Any,
        *,
        answer: str | None = None,
        by: Literal["ablation", "shapley"] = "ablation",
        rows: int = 0,
        max_new_tokens: int = 64,
        progress: Progress = silent,
    ) -> Explanation:
        """Say which words of a prompt made the answer, or which cells of an image, and which training rows did.

        Words are left out, and the log-probability of the same answer computed again: with the adapter and with the
        base model, or of a classifier for each of the likeliest classes.

        Parameters
        ----------
        prompt : str, list of dict, or an image
            What :meth:`generate` or :meth:`predict` takes, one of it; of a conversation the last message is explained.
        answer : str, optional
            What to explain in place of what the run answers: a text, or the name of a class.
        by : {"ablation", "shapley"}, default "ablation"
            Each word left out alone; or Shapley values, which share what words do together, at ten times the work.
        rows : int, default 0
            How many training rows of most influence on the answer to find, by their gradients on the adapter as it
            is now. They have to be in the store still.
        max_new_tokens : int, default 64
            Tokens of the answer at most.
        progress : callable
            Called with the share that is done (0 to 1) and what is being done.

        Returns
        -------
        Explanation
            ``.table``, ``.training_rows``; shown by a notebook.

        Raises
        ------
        DataError
            If there is nothing to explain, or no class of that name.
        MethodError
            If Captum is not installed.
        RunError
            If such runs are not explained, or their rows are gone.
        """
        from peft_nb.runs.explain import explain

        how: dict[str, Any] = {"max_new_tokens": max_new_tokens, "progress": progress}
        return explain(self, prompt, answer=answer, by=by, rows=rows, **how)

    def save(self, path: str | Path, *, checklist: str | None = None, progress: Progress = silent) -> Path:
        """Write the adapter as a plain PEFT folder with safetensors, config, model card and curves.

        Parameters
        ----------
        path : str or Path
            The folder to make.
        checklist : str, optional
            A checklist that the model card gets at its end, as :func:`peft_nb.runs.checklist.checklist` fills it:
            ``eu-ai-act``, ``gdpr``, ``hipaa`` or ``nist-ai-rmf``.
        progress : callable
            Called with the share that is done (0 to 1) and what is being done.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        RunError
            If there is no such checklist.
        StoreError
            If the disk refuses; nothing half-written stays and the run keeps its model.
        """
        from peft_nb.runs.checklist import checklist as filled

        told = filled(self.store, self.id, checklist).to_markdown() if checklist else ""
        folder = self.adapter.save(Path(path).expanduser(), progress)
        if told:
            card = folder / "README.md"
            atomic_text(card, f"{card.read_text(encoding='utf-8')}\n#{told}")
        return folder

    def export(
        self,
        path: str | Path,
        as_: str = "script",
        namespace: Mapping[str, Any] | None = None,
        *,
        progress: Progress = silent,
        **options: Any,
    ) -> Path | Exported:
        """Write the run in a form that others can use.

        Parameters
        ----------
        path : str or Path
            The folder to make; for ``yaml`` the file.
        as_ : str, default "script"
            ``script``: a folder with ``train.py``, which trains the same adapter with PyTorch, transformers and PEFT
            alone, and the data that it reads. ``yaml``: the spec. ``adapter``: as :meth:`save` does. ``merged``: the
            base with the adapter in it. ``gguf``, ``lora-gguf``, ``ollama``: for llama.cpp and Ollama, run by
            llama.cpp and compared. ``%peft help export`` lists all; other packages may add formats.
        namespace : mapping, optional
            The notebook's variables, where a script's rows may have to be found again; without the rows, their token
            ids are written.
        progress : callable
            Called with the share that is done (0 to 1) and what is being done.
        **options
            What the format offers besides; ``%peft help export`` lists them.

        Returns
        -------
        Path or Exported
            What was written; of a script its ``train.py``, of a format that is compared with the run how near it is.

        Raises
        ------
        RunError
            If the run cannot be written so.
        MergeError
            If what was written does otherwise than the run; nothing is kept.
        StoreError
            If the disk refuses, or something else would be lost; nothing half-written stays.
        """
        found = self._exportable(namespace or {}, progress)
        return exporters.export(found, Path(path).expanduser(), as_, **options)

    def export_obstacle(self, as_: str) -> str:
        """Say why the run cannot be exported in a format, in one line, or nothing; no weights are loaded.

        Parameters
        ----------
        as_ : str
            The name of a format, as of :meth:`export`.

        Returns
        -------
        str
            The reason and what works instead, or an empty text.
        """
        try:
            return exporters.EXPORTERS[as_].obstacle(self._exportable({}, silent))
        except PeftNbError as error:
            return str(error)

    def _exportable(self, namespace: Mapping[str, Any], progress: Progress) -> Exportable:
        """What exporters are given of the run."""
        word, store = self.spec.init_adapter, self.store
        return Exportable(
            self.id,
            self.spec,
            self.metrics,
            partial(self.save, progress=progress),
            partial(self.merge, progress=progress),
            partial(self.adapter.for_script, namespace, progress),
            (lambda: init_adapter.find(word, store).folder) if word else (lambda: None),
            partial(self.adapter.live, progress),
            lambda: self.adapter_dir,
            partial(self.adapter.base_folder, progress),
            self.adapter.base_config,
            progress,
        )

    def merge(
        self,
        path: str | Path,
        *,
        dtype: str | None = None,
        max_kl: float = 0.005,
        prompts: Sequence[str] | None = None,
        progress: Progress = silent,
    ) -> Merged:
        """Write a plain model with the adapter folded into its weights, once it is proven to do the same.

        Parameters
        ----------
        path : str or Path
            The folder to make: safetensors, configuration, tokenizer and README.
        dtype : {"float32", "bfloat16", "float16"}, optional
            Dtype of the weights; by default that of the run.
        max_kl : float
            Largest mean KL divergence from the live model, in nats per token (of a classifier, per text).
        prompts : sequence of str, optional
            What to compare answers to; by default evaluation rows, else training rows, else built-in prompts.
        progress : callable
            Called with the share that is done (0 to 1) and what is being done.

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
        return self.adapter.merge(Path(path).expanduser(), dtype, max_kl, prompts, progress)

    # ---- at work

    def _give_up(self) -> None:
        """Take a run for stopped whose cluster cannot be reached."""
        self.store.claim(self.id)
        self.record.set({}, replace(self.facts, place=None))
        self.record.publish(StatusChanged("stopped", "its cluster cannot be reached"))

    def _handle_interrupt(self) -> None:
        if self._thread.stopping:
            self.stop(now=True)
            kept = "its last checkpoint is kept; resume() continues from it"
            raise RunError(f"run {self.id} was aborted; {kept}")
        self.stop()
        self.record.tell(Preparing("stopping after this step; interrupt again to abort and keep the last checkpoint"))

    def _work(
        self, context: Context, train: Callable[[Context], pipeline.Outcome], stop: StopFlag, publish: Listener
    ) -> None:
        """Train, and put everything in place whatever happens."""
        status: Status = "failed"
        reason = ""
        context.stop, context.publish = stop, publish
        try:
            outcome = train(context)
            status = "finished" if outcome.finished else "stopped"
            reason = "" if outcome.finished else f"after step {context.metrics.get('steps', 0)}"
            self._evaluation = outcome.evaluation
        except Abandoned as error:
            status, reason = "stopped", str(error) or "aborted"
        except BaseException as error:
            reason = self._blame(error)
        self._finish(context, status, reason)

    def _blame(self, error: BaseException) -> str:
        """Say in a line what made the run fail, and keep the whole story of what nobody foresaw."""
        if isinstance(error, PeftNbError):
            self._error = error
            # What led to it would hold the model and the optimizer in memory.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            return str(error)
        line, story = next(iter(str(error).strip().splitlines()), ""), self.folder / "error.txt"
        reason = f"{type(error).__name__}: {line}"
        self._error = RunError(f"{reason} (the whole story is in {story})")
        with suppress(OSError):
            story.write_text(traceback.format_exc(), encoding="utf-8")
        return reason

    def _finish(self, context: Context, status: Status, reason: str) -> None:
        """Put everything in place, and last tell the listeners; the executor then lets go whoever waits."""
        record = self.record
        try:
            context.note(place=None)
            context.keep()
            if status == "finished":
                record.write(partial(self.store.evaluate, self.id, evaluate.evaluations(context.metrics)))
            record.keep(StatusChanged(status, reason))
            if status == "finished":  # and known to be: whoever is killed before can resume
                shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        except Exception as error:
            if status != "failed":
                status, reason = "failed", self._blame(error)
            record.keep(StatusChanged(status, reason))
        finally:
            _running.pop(self.id, None)
            self.at_work = False
            record.tell(StatusChanged(status, reason))


def _curves(history: Sequence[Mapping[str, Any]]) -> list[list[tuple[int, float]]]:
    return [[(row["step"], row[name]) for row in history if row[name] is not None] for name in ("loss", "eval_loss")]


def _stands_for(namespace: Mapping[str, Any], field: str, name: str) -> bool:
    """Whether a name in a spec stands for something else than a file of that name."""
    if field == "model":
        return name in ALIASES or holds_a_model(namespace.get(name))
    if field == "init_adapter":  # made absolute where it is found
        return True
    return name in namespace or name in BUILTIN


def begin(
    spec: RunSpec,
    *,
    data: object = None,
    eval_data: object = None,
    model: object = None,
    score: object = None,
    reward: object = None,
    namespace: Mapping[str, Any] | None = None,
    listeners: Sequence[Listener] = (),
    store: Store | None = None,
    place: Place | None = None,
    table: Table | None = None,
) -> Run:
    """Start a run and return at once.

    Parameters
    ----------
    spec : RunSpec
        What to do; the run keeps its files and folders by their absolute paths.
    data, eval_data, model, score, reward : object, optional
        Two tables, a ``(model, tokenizer)`` pair and functions in place of the names in the spec.
    namespace : mapping, optional
        The notebook's variables, where names are looked up first.
    listeners : sequence of callable
        Told every event, in the worker's thread.
    store : Store, optional
        Where the run lives; default ``peft_runs`` in the working folder.
    place : Place, optional
        Where it is executed; by default in a thread of this process.
    table : Table, optional
        The rows, where they were read before.

    Returns
    -------
    Run
        Preparing or training.

    Raises
    ------
    SpecError, DataError
        What can be found wrong before anything is loaded.
    """
    if wrong := problems(spec) + reporters.problems(spec.report_to):
        raise SpecError(wrong)
    inputs = Inputs(data, eval_data, model, score, reward, namespace or {}, table=table)
    executors.refuse(place or Place(), spec, inputs)
    given = spec
    spec, table, facts = rows.read(spec, inputs)
    notes = [] if spec is given else [f"task {spec.task}: {TASKS[spec.task].help}"]
    spec = RunSpec(**absolute(spec.changed(), partial(_stands_for, inputs.namespace)))
    source = spec.init_adapter and init_adapter.find(spec.init_adapter, store or Store(), inputs.namespace)
    if source:
        spec, note = init_adapter.described(spec, source)
        notes.append(note)
    spec = complete(spec)
    evaluate.refuse(spec, table, inputs)
    rewards.of(spec, inputs)
    if source:
        init_adapter.same_labels(facts, source)
        facts = replace(facts, init_adapter=str(source))
    store = store or Store()
    if spec.documents:
        facts = replace(facts, documents=documents.described(spec, table, inputs.namespace, store.folder))
    parents = source.parents if source else ()
    id = store.create(spec.to_yaml(), method=spec.method, model=spec.model, name=spec.name, parents=parents)
    store.set_facts(id, facts)
    run = Run(store.get(id), store, spec, inputs)
    run.start(listeners, table, facts, "; ".join(notes), place)
    return run


def load(name: str, *, model: Any = None, score: Any = None, reward: Any = None, store: Store | None = None) -> Run:
    """Open a run from the store, in whatever process it was made; names in its spec are the notebook's variables.

    Parameters
    ----------
    name : str
        Its id; ``name@v2``; ``name@alias``, such as ``tickets@production``; or a name alone for its newest version.
    model : tuple, optional
        The live ``(model, tokenizer)`` pair, if the run was started on one.
    score : callable, optional
        How answers are scored, if the run was started with a function in place of a name.
    reward : callable or list, optional
        What answers are rewarded by, likewise.
    store : Store, optional
        Where to look; default ``peft_runs`` in the working folder, then the stores in which this process made runs.

    Returns
    -------
    Run
        Ready for ``generate``, ``history``, ``resume``, ``save``.

    Raises
    ------
    StoreError
        If there is no such run.
    """
    store, record = (store, store.get(name)) if store else find(name)
    if record.id in _running and _running[record.id].folder == record.folder:
        return _running[record.id]
    inputs = Inputs(model=model, score=score, reward=reward, namespace=frontend.variables())
    return Run(record, store, RunSpec.from_yaml(record.spec_yaml), inputs)


def runs(store: Store | None = None) -> pandas.DataFrame:
    """List the runs of the store, newest first.

    Parameters
    ----------
    store : Store, optional
        Default ``peft_runs`` in the working folder.

    Returns
    -------
    pandas.DataFrame
        One row a run: id, name, version, aliases, tags, method, model, status, when it was made and its main metrics.
    """
    import pandas

    shown = ("train_loss", "base_eval_loss", "eval_loss", "train_seconds")
    listed = [
        {
            "id": record.id,
            "name": record.name,
            "version": f"v{record.version}" if record.version else "",
            "aliases": ", ".join(record.labels),
            "tags": ", ".join(record.tags),
            "method": record.method,
            "model": record.model,
            "status": record.status,
            "created": record.created.replace(microsecond=0),
            **{name: record.metrics.get(name) for name in shown},
        }
        for record in (store or Store()).all()
    ]
    columns = ["id", "name", "version", "aliases", "tags", "method", "model", "status", "created", *shown]
    return pandas.DataFrame(listed, columns=columns).set_index("id")


def active() -> list[Run]:
    """The runs that are at work in this process."""
    return list(_running.values())

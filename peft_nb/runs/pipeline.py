"""What the worker thread of a run does: read the data, load the base, train, save.

PyTorch is imported only after the data have been read and recognised, so that a mistake in the data is told at once.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from peft_nb.data.labels import Labelled
from peft_nb.data.sources import IN_MEMORY
from peft_nb.errors import ForecastError, ModelError, RunError
from peft_nb.events import Event, Notice, Planned, Preparing, Resumed, StatusChanged
from peft_nb.methods import REGISTRY, attach, complete, peft_type_of
from peft_nb.models import ALIASES
from peft_nb.models.load import Base, load
from peft_nb.models.quiet import quiet
from peft_nb.models.resolve import ModelSource, resolve
from peft_nb.models.weights import fingerprint
from peft_nb.runs import evaluate
from peft_nb.runs.data import RunData
from peft_nb.spec import RunSpec
from peft_nb.system import resources
from peft_nb.training.stop import Abandoned, StopFlag, agreed

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from peft_nb.training.objectives import Installed, Objective
    from peft_nb.training.trainer import PlannedTrainer

PREPARED_STEPS = 4  # batches shown to a method that looks at the data before it begins
PROGRESS_S = 0.5  # between two words on how far something is


@dataclass
class Job:
    """The work of one run.

    Attributes
    ----------
    spec : RunSpec
        What to do.
    folder : Path
        The run's folder in the store: ``examples.json``, ``checkpoints/`` and ``adapter/`` go there.
    publish : callable
        Takes each event.
    stop : StopFlag
        What the user asked for meanwhile.
    data, eval_data, model, score : object, optional
        What was passed instead of a name: two tables, a ``(model, tokenizer)`` pair, a function.
    namespace : mapping
        The notebook's variables.
    history : list of dict
        Rows logged before, when resuming.
    curve : callable
        Gives all rows logged so far, for the picture beside the adapter.
    """

    spec: RunSpec
    folder: Path = Path()
    publish: Callable[[Event], None] = lambda event: None
    stop: StopFlag = field(default_factory=StopFlag)
    data: Any = None
    eval_data: Any = None
    model: Any = None
    namespace: Mapping[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    curve: Callable[[], list[dict[str, Any]]] = list

    score: Any = None
    judgement: dict[str, Any] = field(default_factory=dict)
    adapted: PeftModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    _before: float = 0.0  # bytes of the process as the run began
    _told: float = 0.0  # when progress was last published

    def __post_init__(self) -> None:
        self.spec = complete(self.spec)
        given = (self.data, self.eval_data, self.namespace, self.metrics)
        self.rows = RunData(self.spec, *given, lambda event: self.publish(event), self._progress)

    def perform(self, *, resume: bool) -> bool:
        """Load, train, save.

        Parameters
        ----------
        resume : bool
            Whether to go on from the last checkpoint with the examples encoded at the start.

        Returns
        -------
        bool
            Whether the run reached its last step; otherwise it was stopped, and the checkpoint says where.
        """
        began = time.perf_counter(), time.process_time()
        if not resume:
            self.rows.vet()
        self.publish(Preparing(f"finding {self.spec.model}"))
        source = self._source()
        self.publish(Preparing("starting PyTorch"))
        with quiet():
            if not resume:
                self._foresee(source)
            base, train, held_out = self._ingredients(source, resume)
        with _random_state_kept(self.spec.seed):
            with quiet():
                trainer = self._trainer(base, train, held_out, resume)
            finished = self._train(trainer, resume)
            found = None
            if finished and trainer.is_world_process_zero():
                found = evaluate.judge(trainer, base, self.rows, self.score, self.publish, self.stop.soon.is_set)
        spent = {"wall_seconds": time.perf_counter() - began[0], "cpu_seconds": time.process_time() - began[1]}
        self.metrics |= {name: self.metrics.get(name, 0.0) + seconds for name, seconds in spent.items()}
        if found:
            self.judgement = evaluate.conclude(found, self.folder, self.publish, self.data_told())
        return finished

    def _foresee(self, source: ModelSource) -> None:
        """Say what the run will take, and refuse it while nothing large is in memory if that cannot be had."""
        if resources.processes() > 1 or resources.device(self.spec.device) != "cpu":
            return
        from peft_nb.planning import memory
        from peft_nb.planning.estimate import foresee
        from peft_nb.planning.workload import Table

        self.publish(Preparing("forecasting memory and time"))
        rows, self._before = self.rows, memory.process()
        try:
            forecast = foresee(self.spec, source, Table.of(self.spec, rows.rows, rows.eval_rows))
        except ForecastError as error:
            self.publish(Notice(f"no forecast: {error}"))
            return
        self.metrics |= {"forecast_memory_mb": forecast.memory_mb, "forecast_seconds": forecast.seconds}
        if not source.pair:
            self.metrics["dtype"] = forecast.dtype  # chosen by a probe, which might choose otherwise next time
        forecast.check()
        if forecast.tight:
            self.publish(Notice(forecast.shortage))
        self._heed_stop()

    def _ingredients(self, source: ModelSource, resume: bool) -> tuple[Base, Any, Any]:
        """The base, and the training and held-out examples."""
        if resources.processes() > 1:
            self._meet()
        base = self._base(source)
        if not resume:
            self.rows.check(self.folder, base.tokenizer)
        train: Any
        held_out: Any
        if self.rows.classifies:
            train, held_out = self.rows.labelled(self.folder, base, resume)
        else:
            train, held_out = self.rows.examples(self.folder, base.tokenizer, resume)
            self.rows.keep_for_judge(self.folder, base.tokenizer, held_out, resume)
        self._heed_stop()
        return base, train, held_out

    def _trainer(self, base: Base, train: Any, held_out: Any, resume: bool) -> PlannedTrainer:
        """Put the adapter on the base, and everything together."""
        import torch

        from peft_nb.training import classification, objectives, packing
        from peft_nb.training.trainer import PlannedTrainer

        self.publish(Preparing("adding the adapter"))
        spec, method = self.spec, REGISTRY[self.spec.method]
        pad_id, device = base.tokenizer.pad_token_id, torch.device(base.device)
        batch = spec.batch_size * spec.gradient_accumulation_steps
        plan = packing.plan(len(train), batch, spec.seed, spec.epochs, spec.max_steps)
        bare, whole = self._bare(base)
        self.adapted = model = attach(bare, spec, _public_name(base.source), whole, len(plan), peft_type_of(spec.task))
        if note := method.note(model):
            self.publish(Notice(note))
        hooks = method.hooks(spec)
        hooks.begin(model, self._batches(train, plan[:PREPARED_STEPS], pad_id, device))
        wanted = {"fast": spec.fast, "supported": method.padding_free}
        objective: Objective
        if self.rows.classifies:
            objective = classification.choose(model, train, pad_id, device, multi=self.rows.classes.multi, **wanted)
        else:
            objective = objectives.choose(model, train.shortest(2), pad_id, device, **wanted)
        if spec.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        folder = self.folder / "checkpoints"
        self._announce(base, train, held_out, len(plan), str(objective))
        return PlannedTrainer(
            model, spec, objective, train, held_out, plan, folder, self.publish, self.stop, base.device, hooks
        )

    def _batches(
        self, train: Any, rows: list[list[int]], pad_id: int, device: torch.device
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Padded batches of some steps."""
        from peft_nb.training.packing import pad

        for step in rows:
            yield {name: tensor.to(device) for name, tensor in pad([train[row] for row in step], pad_id).items()}

    def _train(self, trainer: PlannedTrainer, resume: bool) -> bool:
        from peft_nb.planning import memory
        from peft_nb.training import checkpoint
        from peft_nb.training.objectives import Installed

        last = checkpoint.latest(trainer.folder) if resume else None
        done = checkpoint.step_of(last) if last else 0
        before = [row for row in self.history if row["step"] <= done]
        trainer.elapsed_before = max((row["elapsed_s"] or 0.0 for row in before), default=0.0)
        if trainer.best:
            later = (row for row in before if row["eval_loss"] is not None and row["step"] > trainer.best.step)
            trainer.best.since = len(list(later))
        if resume:
            self.publish(Resumed(done))
        model = trainer.model
        try:
            with Installed(trainer.objective, model) as installed, resources.PeakMemory() as peak:
                if not self.rows.classifies and resources.processes() == 1:
                    trainer.sample = self._sampler(installed)
                if trainer.eval_examples and not done:
                    self.publish(Preparing(f"measuring the base on {len(trainer.eval_examples):,} held-out rows"))
                    trainer.evaluate()
                    self._heed_stop()
                self.publish(StatusChanged("training"))
                trainer.train(resume_from_checkpoint=str(last) if last else None)
                trainer.load_best()
                if self.rows.classifies and trainer.eval_examples and trainer.is_world_process_zero():
                    self._score(trainer)
        finally:
            model.eval().zero_grad()
            if trainer.optimizer:  # the trainer holds itself in cycles, and would keep this memory for long
                trainer.optimizer.state.clear()
            if self._before:
                memory.settle(self._before)
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        evals = [row["eval_loss"] for row in before if row["eval_loss"] is not None] + trainer.eval_losses
        self.metrics |= {
            "steps": trainer.state.global_step,
            "train_loss": fmean(losses[-max(1, trainer.steps_per_epoch // self.spec.logging_steps) :]),
            "base_eval_loss": evals[0] if evals else None,
            "eval_loss": evals[-1] if evals else None,
            "train_seconds": trainer.elapsed_s,
            "tokens_per_second": trainer.tokens / trainer.busy_s if trainer.busy_s else None,
            "peak_memory_mb": peak.mb,
            "token_budget": trainer.budget,
        }
        if trainer.args.device.type == "cuda":
            self.metrics["gpu_seconds"] = trainer.elapsed_s * resources.processes()
        if trainer.best and trainer.best.step:
            self.metrics |= {"eval_loss": trainer.best.loss, "best_step": trainer.best.step}
        trainer.hooks.end(model)
        if trainer.is_world_process_zero():
            self._save_adapter(model)
        return trainer.finished

    def _sampler(self, installed: Installed) -> Callable[[int, float], None]:
        """What asks a few held-out prompts at evaluations."""
        from peft_nb.data import prompts
        from peft_nb.evaluation.samples import Sampler

        return Sampler(
            self.adapted,
            self.tokenizer,
            prompts.kept(self.folder),
            self.chat,
            self.spec.system,
            installed.taken_out,
            self.publish,
            self.metrics.get("forecast_seconds"),
        )

    def _score(self, trainer: PlannedTrainer) -> None:
        """How often the classifier is right on the held-out rows."""
        from peft_nb.evaluation.classification import probabilities, scores

        examples: list[Labelled] = list(trainer.eval_examples)
        objective: Any = trainer.objective
        found = probabilities(trainer.model.eval(), objective, examples, trainer.args.device, trainer.budget)
        self.metrics |= scores(examples, found, self.rows.classes)

    def _meet(self) -> None:
        """Share the cores between the processes, and let process 0 say where the run lives."""
        import torch
        from accelerate import PartialState
        from accelerate.utils import broadcast_object_list

        torch.set_num_threads(resources.worker_threads(resources.processes()))
        cpu = resources.device(self.spec.device) == "cpu"
        PartialState(cpu=cpu, backend="gloo" if cpu else None)
        self.folder = Path(broadcast_object_list([str(self.folder)])[0])

    def script(self, folder: Path, namespace: Mapping[str, Any]) -> Path:
        """Write the run as a script with its data, see :func:`peft_nb.adapters.export.script`.

        Parameters
        ----------
        folder : Path
            Where it shall appear.
        namespace : mapping
            The notebook's variables, among which the rows may be.

        Returns
        -------
        Path
            The script.
        """
        from peft_nb.adapters import export

        if why := export.obstacle(self.spec):
            raise RunError(why)
        with quiet():
            base = self._base(self._source())
            train, held_out = self.rows.sides(self.folder, base.tokenizer, namespace)
        return export.script(folder, self.spec, base, train, held_out)

    def load_adapter(self, folder: Path) -> None:
        """Put a saved adapter on its base.

        Parameters
        ----------
        folder : Path
            What :func:`peft_nb.adapters.save.save` wrote.
        """
        from peft import PeftModel

        REGISTRY[self.spec.method].config_class()  # makes PEFT know a tuner of ours
        with quiet():
            bare, _ = self._bare(self._base(self._source()))
            self.adapted = PeftModel.from_pretrained(bare, str(folder)).eval()

    def judged_by(self, model: PeftModel, prompts: Sequence[str] | None = None) -> tuple[list[Any], str]:
        """Texts to compare another model with the trained one on, and what they are called.

        Parameters
        ----------
        model : PeftModel
            The trained model.
        prompts : sequence of str, optional
            What it is asked; by default held-out rows are taken, else training rows, else built-in prompts.
        """
        from peft_nb.evaluation import agreement

        examples, name = ((), "") if prompts else self.rows.judging(self.folder, self.tokenizer)
        if len(examples):
            chosen = agreement.some(examples)
            return chosen, f"{len(chosen)} {name}"
        name, prompts = ("prompts", list(prompts)) if prompts else ("built-in prompts", agreement.PROMPTS)
        if self.rows.classifies:
            options: dict[str, Any] = {"multi": self.rows.classes.multi, "longest": self.metrics["max_tokens"]}
            return agreement.classified(model, self.tokenizer, prompts, **options), f"{len(prompts)} {name}"
        asked = {"chat": self.chat, "system": self.spec.system}
        return agreement.answered(model, self.tokenizer, prompts, **asked), f"{len(prompts)} {name}"  # type: ignore[arg-type]

    def _bare(self, base: Base) -> tuple[PreTrainedModel, list[str]]:
        """A tree of the run's own over the base's tensors, and the names of the parts that are new in it."""
        if self.rows.classifies:
            from peft_nb.models import classify

            self.metrics["pooling"] = classify.pooling(base) or "the model's own head"
            return classify.build(base, self.rows.classes.names, self.rows.classes.multi)
        from peft_nb.models.share import share

        return share(base.model), []

    @property
    def chat(self) -> bool:
        """Whether the run was trained on conversations rather than on plain texts."""
        return self.metrics.get("layout") != "text"

    def _source(self) -> ModelSource:
        """Where the base is; imports no PyTorch."""
        if self.spec.model == IN_MEMORY and self.model is None:
            raise ModelError(
                "the run was started on a model in the notebook's memory; "
                "pass it again: peft_nb.load(id, model=(model, tokenizer))"
            )
        given = self.spec.model if self.model is None else self.model
        return resolve(given, self.spec.revision, self.namespace)

    def _base(self, source: ModelSource) -> Base:
        """The base, loaded once a process and shared between runs."""
        from peft_nb.training.probe import fastest_dtype

        spec, device = self.spec, resources.device(self.spec.device)
        self.publish(Preparing(f"loading {spec.model}"))
        dtype = self.metrics.get("dtype") or spec.dtype  # a run goes on in what it began with
        base = load(
            source,
            dtype=dtype if dtype != "auto" else lambda config: fastest_dtype(config, device),
            quantization=REGISTRY[spec.method].quantization(spec),  # type: ignore[arg-type]
            device=device,
            kind=None if self.rows.classifies else "causal",
            progress=lambda fraction, what: self.publish(Preparing(f"{what} ({fraction:.0%})")),
        )
        for note in base.notes:
            self.publish(Notice(note))
        self.tokenizer = base.tokenizer
        return base

    def _progress(self, share: float, what: str) -> None:
        """Say now and then how far something is, and give it up when the user wants to stop."""
        if resources.processes() == 1:  # several would have to ask each other at the same row
            self._heed_stop()
        if time.monotonic() > self._told + PROGRESS_S:
            self._told = time.monotonic()
            self.publish(Preparing(f"{what} ({share:.0%})"))

    def _announce(self, base: Base, train: Any, held_out: Any, steps: int, path: str) -> None:
        trainable, total = self.adapted.get_nb_trainable_parameters()  # type: ignore[union-attr]
        supervised = len(train) if self.rows.classifies else train.supervised_tokens
        dtype, device = base.dtype, base.device
        self.metrics |= {
            "base": base.identity,
            "base_hash": fingerprint(base),
            "trainable_parameters": trainable,
            "total_parameters": total,
            "trainable_share": trainable / total,
            "examples": len(train),
            "eval_examples": len(held_out),
            "supervised_tokens": supervised,
            "dtype": dtype,
            "device": device,
            "path": path,
        }
        self.publish(Planned(steps, len(train), len(held_out), supervised, trainable, total, dtype, device, path))

    def _save_adapter(self, model: PeftModel) -> None:
        from peft_nb.adapters.save import WEIGHTS, save

        folder = save(
            model,
            self.folder / "adapter",
            self.spec,
            self.metrics,
            tokenizer=self.tokenizer,
            history=self.curve(),
            data=self.data_told(),
            overwrite=True,
        )
        self.metrics["adapter_mb"] = (folder / WEIGHTS).stat().st_size / resources.MB

    def data_told(self) -> dict[str, Any]:
        """What the check of the data told before the first step; empty where there is nothing."""
        try:
            told: dict[str, Any] = json.loads((self.folder / "data.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return told

    def _heed_stop(self) -> None:
        if agreed(self.stop.soon.is_set()):
            raise Abandoned("before the first step")


def _public_name(source: ModelSource) -> str:
    """What a saved adapter calls its base: a name that others can use, where there is one."""
    if source.name in ALIASES:
        return ALIASES[source.name].repo
    known_as = source.pair[0].name_or_path if source.pair else ""
    return source.repo or known_as or str(source.path or source.name)


@contextmanager
def _random_state_kept(seed: int) -> Iterator[None]:
    """Seed every generator, and give the notebook its own random state back afterwards."""
    import numpy
    import torch

    python, vectors = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            numpy.random.set_state(vectors)

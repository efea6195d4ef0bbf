"""What the worker thread of a run does: read the data, load the base, train, save.

PyTorch is imported only after the data have been read and recognised, so that a mistake in the data is told at once.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from peft_nb import environment
from peft_nb.data import Rows, checks, encoding, examples, formats, labels, mending, sources, splits, vetting
from peft_nb.data.examples import Encoded, Examples
from peft_nb.data.formats import Layout
from peft_nb.data.labels import Classes, Labelled
from peft_nb.data.measuring import Options
from peft_nb.data.mending import Change
from peft_nb.errors import DataError, ModelError
from peft_nb.events import Event, Notice, Planned, Preparing, Resumed, StatusChanged
from peft_nb.files import atomic_text
from peft_nb.methods import REGISTRY, attach
from peft_nb.models import ALIASES
from peft_nb.models.load import Base, load
from peft_nb.models.quiet import quiet
from peft_nb.models.resolve import ModelSource, resolve
from peft_nb.spec import RunSpec
from peft_nb.training.stop import Abandoned, StopFlag, agreed

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from peft_nb.training.paths import Path as LossPath
    from peft_nb.training.trainer import PlannedTrainer

IN_MEMORY = "(in memory)"
CHECKED_ROWS = 2_000  # rows that a run looks through before it trains; `%peft data` takes its time for all
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
    data, model : object, optional
        What was passed instead of a name: a table, a ``(model, tokenizer)`` pair.
    namespace : mapping
        The notebook's variables.
    history : list of dict
        Rows logged before, when resuming.
    """

    spec: RunSpec
    folder: Path = Path()
    publish: Callable[[Event], None] = lambda event: None
    stop: StopFlag = field(default_factory=StopFlag)
    data: Any = None
    model: Any = None
    namespace: Mapping[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    adapted: PeftModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    _told: float = 0.0  # when progress was last published

    def read(self) -> None:
        """Read and recognise the data; imports no PyTorch."""
        spec = self.spec
        source = sources.read(self.data if self.data is not None else spec.data, self.namespace)
        self.rows, self.eval_rows = source.train, source.eval
        self._fingerprints = [source.fingerprint] * 2
        if spec.eval_data is not None:
            given = sources.read(spec.eval_data, self.namespace)
            self.eval_rows, self._fingerprints[1] = given.train, given.fingerprint
        self.layout = formats.detect(self.rows, spec.format, spec.columns)
        self.metrics |= {"data": source.origin, "fingerprint": source.fingerprint, "layout": self.layout.name}

    def recognise(self) -> None:
        """Check that the data :meth:`read` has found fit the task, and find the classes; imports no PyTorch."""
        labels.check_task(self.spec.task, self.layout, self.spec.too_long)
        if not self.classifies:
            return
        classes = labels.find(self.rows, self.layout)
        if self.eval_rows is not None:
            labels.read(self.eval_rows, self._eval_layout(), classes, "held-out row")
        self.metrics |= {"classes": list(classes.names), "multi_label": classes.multi}

    @property
    def classifies(self) -> bool:
        """Whether the run learns to give texts labels."""
        return self.spec.task == "classification"

    @property
    def classes(self) -> Classes:
        """What a text can be, in a run that classifies."""
        return Classes(tuple(self.metrics.get("classes", ())), self.metrics.get("multi_label", False))

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
        if not resume:
            self._vet()
        self.publish(Preparing(f"finding {self.spec.model}"))
        source = self._source()
        self.publish(Preparing("starting PyTorch"))
        with quiet():
            base, train, held_out = self._ingredients(source, resume)
        with _random_state_kept(self.spec.seed):
            with quiet():
                trainer = self._trainer(base, train, held_out, resume)
            return self._train(trainer, resume)

    def _vet(self) -> None:
        """Replace personal data in the rows, or refuse to train on them, where the spec says so."""
        wanted = self.spec.personal_data
        self.rows, self._redacted = vetting.vet(self.rows, self.layout, wanted, self._progress)
        if self.eval_rows is not None:
            self.eval_rows, more = vetting.vet(self.eval_rows, self._eval_layout(), wanted, self._progress)
            self._redacted += [Change(change.row, f"held-out row: {change.what}") for change in more]
        if self._redacted:
            counts = Counter(change.what for change in self._redacted)
            self.publish(Notice("personal data: " + ", ".join(f"{what} ({n:,})" for what, n in counts.items())))
        if wanted == "redact":  # or rows with and without personal data would be taken for the same
            self._fingerprints = [f"{fingerprint}, redacted" for fingerprint in self._fingerprints]

    def _check(self) -> None:
        """Look for what spoils training, say it before the first step, and keep the report with the run."""
        if environment.rank():
            return
        rows, held_out = self.rows[:CHECKED_ROWS], self.eval_rows and self.eval_rows[:CHECKED_ROWS]
        checked = checks.check(
            rows,
            self.layout,
            held_out,
            self._eval_layout() if held_out else None,
            tokenizer=self.tokenizer,
            options=Options.of(self.spec),
            progress=self._progress,
        )
        if len(self.rows) > CHECKED_ROWS:
            checked.notes.append(f"the first {CHECKED_ROWS:,} of {len(self.rows):,} rows were looked at")
        changes = [*mending.remembered(self.metrics["fingerprint"]), *self._redacted]
        told = {"data": self.metrics["data"], **checked.told(), "changes": [asdict(change) for change in changes]}
        atomic_text(self.folder / "data.json", json.dumps(told, ensure_ascii=False, indent=1))
        serious = [finding.title for finding in checked.findings if finding.level != "note"]
        if serious:
            beside = f" --eval-data {self.spec.eval_data}" if self.spec.eval_data else ""
            more = "peft_nb.check(data)" if self.spec.data == IN_MEMORY else f"%peft data {self.spec.data}{beside}"
            self.publish(Notice(f"{'; '.join(serious)}; {more} shows more"))

    def _ingredients(self, source: ModelSource, resume: bool) -> tuple[Base, Any, Any]:
        """The base, and the training and held-out examples."""
        if environment.processes() > 1:
            self._meet()
        base = self._base(source)
        if not resume:
            self._check()
        train, held_out = self._labelled(base, resume) if self.classifies else self._examples(resume)
        self._heed_stop()
        return base, train, held_out

    def _trainer(self, base: Base, train: Any, held_out: Any, resume: bool) -> PlannedTrainer:
        """Put the adapter on the base, and everything together."""
        import torch

        from peft_nb.training import classification, paths, steps
        from peft_nb.training.trainer import PlannedTrainer

        self.publish(Preparing("adding the adapter"))
        spec, method = self.spec, REGISTRY[self.spec.method]
        bare, whole = self._bare(base)
        self.adapted = model = attach(bare, spec, _public_name(base.source), whole)
        pad_id, device = base.tokenizer.pad_token_id, torch.device(base.device)
        wanted = {"fast": spec.fast, "supported": method.padding_free}
        path: LossPath
        if self.classifies:
            path = classification.choose(model, train, pad_id, device, multi=self.classes.multi, **wanted)
        else:
            path = paths.choose(model, train.shortest(2), pad_id, device, **wanted)
        if spec.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        batch = spec.batch_size * spec.gradient_accumulation_steps
        plan = steps.plan(len(train), batch, spec.seed, spec.epochs, spec.max_steps)
        folder = self.folder / "checkpoints"
        self._announce(base, train, held_out, len(plan), str(path))
        return PlannedTrainer(model, spec, path, train, held_out, plan, folder, self.publish, self.stop, base.device)

    def _train(self, trainer: PlannedTrainer, resume: bool) -> bool:
        from peft_nb.training import checkpoint

        last = checkpoint.latest(trainer.folder) if resume else None
        done = checkpoint.step_of(last) if last else 0
        before = [row for row in self.history if row["step"] <= done]
        trainer.elapsed_before = max((row["elapsed_s"] or 0.0 for row in before), default=0.0)
        if resume:
            self.publish(Resumed(done))
        model = trainer.model
        try:
            with trainer.path.installed(model), environment.PeakMemory() as peak:
                if trainer.eval_examples and not done:
                    self.publish(Preparing(f"measuring the base on {len(trainer.eval_examples):,} held-out rows"))
                    trainer.evaluate()
                    self._heed_stop()
                self.publish(StatusChanged("training"))
                trainer.train(resume_from_checkpoint=str(last) if last else None)
                if self.classifies and trainer.eval_examples and trainer.is_world_process_zero():
                    self._score(trainer)
        finally:
            model.eval().zero_grad()
            if trainer.optimizer:  # the trainer holds itself in cycles, and would keep this memory for long
                trainer.optimizer.state.clear()
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
        if trainer.is_world_process_zero():
            self._save_adapter(model)
        return trainer.state.global_step == len(trainer.steps)

    def _score(self, trainer: PlannedTrainer) -> None:
        """How often the classifier is right on the held-out rows."""
        from peft_nb.evaluation.classification import probabilities, scores

        examples: list[Labelled] = list(trainer.eval_examples)
        path: Any = trainer.path
        found = probabilities(trainer.model.eval(), path, examples, trainer.args.device, trainer.budget)
        self.metrics |= scores(examples, found, self.classes)

    def _meet(self) -> None:
        """Share the cores between the processes, and let process 0 say where the run lives."""
        import torch
        from accelerate import PartialState
        from accelerate.utils import broadcast_object_list

        torch.set_num_threads(environment.worker_threads(environment.processes()))
        cpu = environment.device(self.spec.device) == "cpu"
        PartialState(cpu=cpu, backend="gloo" if cpu else None)
        self.folder = Path(broadcast_object_list([str(self.folder)])[0])

    def load_adapter(self, folder: Path) -> None:
        """Put a saved adapter on its base.

        Parameters
        ----------
        folder : Path
            What :func:`peft_nb.adapters.save.save` wrote.
        """
        from peft import PeftModel

        bare, _ = self._bare(self._base(self._source()))
        self.adapted = PeftModel.from_pretrained(bare, str(folder)).eval()

    def _bare(self, base: Base) -> tuple[PreTrainedModel, list[str]]:
        """A tree of the run's own over the base's tensors, and the names of the parts that are new in it."""
        if self.classifies:
            from peft_nb.models import classify

            self.metrics["pooling"] = classify.pooling(base) or "the model's own head"
            return classify.build(base, self.classes.names, self.classes.multi)
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

        spec, device = self.spec, environment.device(self.spec.device)
        self.publish(Preparing(f"loading {spec.model}"))
        dtype = self.metrics.get("dtype") or spec.dtype  # a run goes on in what it began with
        base = load(
            source,
            dtype=dtype if dtype != "auto" else lambda config: fastest_dtype(config, device),
            quantization=REGISTRY[spec.method].quantization(spec),  # type: ignore[arg-type]
            device=device,
            kind=None if self.classifies else "causal",
            progress=lambda fraction, what: self.publish(Preparing(f"{what} ({fraction:.0%})")),
        )
        for note in base.notes:
            self.publish(Notice(note))
        self.tokenizer = base.tokenizer
        return base

    def _examples(self, resume: bool) -> tuple[Examples, Examples]:
        """The encoded examples; which they are is written beside the run, so that it resumes without its data."""
        path = self.folder / "examples.json"
        if resume and path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            found = [loaded.examples for key in kept["keys"] if (loaded := examples.load(self._shelf / key))]
            if len(found) == len(kept["keys"]):
                return (found[0], found[1]) if found[1:] else found[0].parted(kept["held_out"])
        if resume:
            self._read_again()
        key, train = self._encode(self.rows, self.layout, self._fingerprints[0], "row")
        self.publish(Notice(f"{self.metrics['data']}: {train.report}"))
        kept = {"keys": [key], "held_out": []}
        if self.eval_rows is not None:
            layout = self._eval_layout()
            key, held_out = self._encode(self.eval_rows, layout, self._fingerprints[1], "held-out row")
            kept["keys"].append(key)
            if held_out.report.long:
                self.publish(Notice(f"held-out rows: {held_out.report}"))
            sides = train.examples, held_out.examples
        else:
            kept["held_out"] = self._set_aside(train.examples)
            sides = train.examples.parted(kept["held_out"])
        if environment.rank() == 0:
            atomic_text(path, json.dumps(kept))
        return sides

    def _encode(self, rows: Rows, layout: Layout, fingerprint: str, row_name: str) -> tuple[str, Encoded]:
        spec = self.spec
        return encoding.kept(
            self._shelf,
            fingerprint,
            rows,
            layout,
            self.tokenizer,
            max_length=spec.max_length,
            loss_on=spec.loss_on,
            too_long=spec.too_long,
            system=spec.system,
            row_name=row_name,
            progress=self._progress,
        )

    def _set_aside(self, encoded: Examples) -> list[int]:
        """Numbers of the rows to hold out, of those that became examples."""
        if not self.spec.eval_fraction:
            return []
        numbers = sorted(set(encoded.rows.tolist()))
        texts = splits.Texts(self.rows, self.layout, numbers)
        _, aside = splits.split(texts, self.spec.eval_fraction, self.spec.seed, progress=self._progress)
        if not aside and len(numbers) > 1:
            self.publish(Notice("no row is held out: all of them are nearly the same; give eval_data"))
        return [numbers[place] for place in aside]

    def _read_again(self) -> None:
        before = self.metrics.get("fingerprint")
        self.read()
        if before not in (None, self.metrics["fingerprint"]):
            raise DataError(f"{self.spec.data} is not what the run began with; put it back, or start a new run")
        self._vet()

    def _progress(self, share: float, what: str) -> None:
        """Say now and then how far something is, and give it up when the user wants to stop."""
        if environment.processes() == 1:  # several would have to ask each other at the same row
            self._heed_stop()
        if time.monotonic() > self._told + PROGRESS_S:
            self._told = time.monotonic()
            self.publish(Preparing(f"{what} ({share:.0%})"))

    @property
    def _shelf(self) -> Path:
        """Where encoded examples are kept for all runs of the store."""
        return self.folder.parent.parent / "examples"

    def _labelled(self, base: Base, resume: bool) -> tuple[list[Labelled], list[Labelled]]:
        """The encoded examples of a classifier; written beside the run, so that it resumes without its data."""
        path, spec = self.folder / "labelled.safetensors", self.spec
        if resume and self.classes.names and path.exists():
            return labels.load(path)
        if resume:
            self._read_again()
            self.recognise()
        self.publish(Preparing("encoding the data"))
        # What the spec allows and the model has places for.
        places = getattr(base.model.config.get_text_config(), "max_position_embeddings", None) or spec.max_length
        longest = min(spec.max_length, base.tokenizer.model_max_length, places)
        self.metrics["max_tokens"] = longest
        options: dict[str, Any] = {"max_length": longest, "too_long": spec.too_long}
        encoded = labels.encode(self.rows, self.layout, self.classes, self.tokenizer, **options)
        self.publish(Notice(f"{self.metrics['data']}: {encoded.report}"))
        train = encoded.examples
        if self.eval_rows is not None:
            layout = self._eval_layout()
            options["row_name"] = "held-out row"
            held_out = labels.encode(self.eval_rows, layout, self.classes, self.tokenizer, **options).examples
        else:
            kinds = [one.labels for one in train]
            kept, taken = splits.split(encoded.texts, spec.eval_fraction, spec.seed, kinds, self._progress)
            train, held_out = [train[row] for row in kept], [train[row] for row in taken]
        if environment.rank() == 0:
            labels.save(path, train, held_out)
        return train, held_out

    def _eval_layout(self) -> formats.Layout:
        return formats.detect(self.eval_rows or [], self.spec.format, self.spec.columns)

    def _announce(self, base: Base, train: Any, held_out: Any, steps: int, path: str) -> None:
        trainable, total = self.adapted.get_nb_trainable_parameters()  # type: ignore[union-attr]
        supervised = len(train) if self.classifies else train.supervised_tokens
        dtype, device = base.dtype, base.device
        self.metrics |= {
            "base": base.identity,
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

        folder = save(model, self.folder / "adapter", self.spec, self.metrics, overwrite=True)
        self.metrics["adapter_mb"] = (folder / WEIGHTS).stat().st_size / environment.MB

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

"""The adapter of a run, in memory or on disk: asked, saved, merged and exported."""

from __future__ import annotations

import gc
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.adapters.exporters import Live
from peft_nb.data.examples import Example
from peft_nb.data.prompts import Prompt
from peft_nb.data.rendering import Renderer
from peft_nb.documents.passages import Passage
from peft_nb.errors import RunError
from peft_nb.events import ACTIVE, Event, Preparing, Progress, silent
from peft_nb.methods import REGISTRY
from peft_nb.models import ALIASES, bundled
from peft_nb.models.load import located
from peft_nb.models.quiet import quiet
from peft_nb.runs import model as models
from peft_nb.runs import rows
from peft_nb.runs.context import Context, Inputs
from peft_nb.runs.documents import Shelf
from peft_nb.runs.documents import find as find_index
from peft_nb.runs.record import RunRecord
from peft_nb.spec import RunSpec
from peft_nb.system.lazy import import_training
from peft_nb.tasks import TASKS

if TYPE_CHECKING:
    import numpy
    import pandas
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from peft_nb.adapters.exporters import Side
    from peft_nb.adapters.merge import Merged
    from peft_nb.documents.retriever import Retriever
    from peft_nb.models.load import Base
    from peft_nb.training.objectives import Objective


class Adapter:
    """What a run has learned.

    Parameters
    ----------
    spec : RunSpec
        The run's, completed.
    inputs : Inputs
        What was passed in place of names.
    record : RunRecord
        The run in the store.
    at_work : callable
        Whether this process is training it now.

    Attributes
    ----------
    using : threading.RLock
        Held by whoever uses the model: one that is without its adapter for the one must not answer the other.
    """

    def __init__(self, spec: RunSpec, inputs: Inputs, record: RunRecord, at_work: Callable[[], bool]) -> None:
        self.spec, self.inputs, self._record, self._at_work = spec, inputs, record, at_work
        self.task = TASKS[spec.task]
        self.shelf = Shelf(spec, self._index)
        self.using = threading.RLock()
        self._model: PeftModel | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._scorer: Objective | None = None

    @property
    def folder(self) -> Path:
        """Where it is on disk; RunError if none has been written yet."""
        folder, status = self._record.folder / "adapter", self._record.status
        if not folder.is_dir():
            fix = "wait() for it" if status in ACTIVE else "resume() it"
            raise RunError(f"run {self._record.id} is {status} and has written no adapter yet; {fix} first")
        return folder

    @property
    def model(self) -> PeftModel:
        """The base with the adapter, loaded when it is first needed."""
        return self.open()

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer."""
        return self.model and self._tokenizer

    def open(self, progress: Progress = silent) -> PeftModel:
        """Load the model if it is not in memory, and say what takes long."""
        if self._at_work():
            status = self._record.status
            raise RunError(f"run {self._record.id} is {status}; call wait() or stop() before using its model")
        if (found := self._model) is None:
            with self.using:  # or two would load it
                if (found := self._model) is None:
                    folder, facts = self.folder, self._record.facts
                    base = self._base(progress, folder)
                    with quiet():
                        found = models.adapted(self.spec, base, facts, str(folder))
                    self.hold(found, base.tokenizer)
        return found

    @property
    def held(self) -> bool:
        """Whether the model is in memory."""
        return self._model is not None

    @property
    def chat(self) -> bool:
        """Whether the run learns from conversations rather than from plain texts."""
        return self._record.facts.chat

    def hold(self, model: PeftModel, tokenizer: Any) -> None:
        """Take a live model for the run's own."""
        self._tokenizer, self._model, self._scorer = tokenizer, model, None

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Give back the memory of a model that was not loaded before; the base stays for the next one."""
        with self.using:
            held = self.held
            try:
                yield
            finally:
                if not held:
                    self._model = None
                    gc.collect()  # modules and hooks hold each other in cycles

    def generate(self, prompts: Sequence[Prompt], adapter: bool, *, documents: Any = None, **options: Any) -> list[str]:
        """Answer prompts, one call at a time, behind documents where the run learned so or they are given."""
        if not self.task.generates:
            raise RunError(f"run {self._record.id} {self.task.instead}")
        asked, _ = self.retrieve(prompts, documents)
        from peft_nb.evaluation.generate import generate

        with self.using, nullcontext() if adapter else self.model.disable_adapter():
            return generate(self.model, self.tokenizer, asked, chat=self.chat, system=self.spec.system, **options)

    def retrieve(
        self, prompts: Sequence[Prompt], documents: Any = None
    ) -> tuple[Sequence[Prompt], list[list[Passage]]]:
        """Put documents before prompts as :meth:`generate` does, and give them too."""
        if not self.chat and self.shelf.wanted(documents):
            raise RunError(f"run {self._record.id} learned from plain texts, before which no documents are put")
        return self.shelf.retrieve(prompts, documents)

    def _index(self) -> Retriever:
        """The index that the run learned with, as it is now."""
        record = self._record
        return find_index(self.spec, self.inputs.namespace, record.folder.parents[1], record.facts)

    def predict(self, inputs: Any, adapter: bool = True) -> pandas.DataFrame:
        """Say what the model says of texts, images or clips, or its base model."""
        if self.task.generates:
            raise RunError(f"run {self._record.id} {self.task.instead}")
        asked = self.task.asked(inputs)
        with self.using, nullcontext() if adapter else self.model.disable_adapter():
            return self.task.predict(self.model, self.tokenizer, asked, self._record.facts.task)

    def objective(self, examples: Sequence[Any]) -> Objective:
        """Choose how examples become a loss, as in training; the adapter has to be trainable, or all is padded."""
        model, facts = self.model, self._record.facts.task
        pad_id = getattr(self.tokenizer, "pad_token_id", None) or 0
        supported = REGISTRY[self.spec.method].padding_free
        return self.task.objective(model, examples, pad_id, model.device, self.spec, facts, supported=supported)

    def scorer(self) -> Objective:
        """How losses are measured: by the path that was checked when the run began, else the plain way."""
        if self._scorer is None:
            model, facts = self.model, self._record.facts.task
            pad_id = getattr(self.tokenizer, "pad_token_id", None) or 0
            supported = REGISTRY[self.spec.method].padding_free
            found = self.task.foreseen(model, pad_id, self.spec, facts, supported=supported)
            if str(found) != self._record.metrics.get("path"):
                plain = self.spec.model_copy(update={"fast": False})
                found = self.task.foreseen(model, pad_id, plain, facts, supported=False)
            self._scorer = getattr(found, "path", found)  # of pairs, which are read token by token
        return self._scorer

    def losses(
        self, examples: Sequence[Any], adapter: bool = True, heed: Callable[[], None] = lambda: None
    ) -> numpy.ndarray:
        """Measure the mean loss of each example, of a token or of the whole, or that of the base model.

        `heed` is called before every micro-batch; what it raises ends the work.
        """
        from peft_nb.evaluation.measure import predictions

        with self.using:
            model, scorer = self.model.eval(), self.scorer()
            with nullcontext() if adapter else model.disable_adapter():
                return predictions(model, scorer, examples, heed).means

    def confidence(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> numpy.ndarray:
        """How sure the model is of answers to prompts: of each the geometric mean of its tokens' probabilities."""
        import numpy

        from peft_nb.evaluation.generate import ask

        renderer, examples = Renderer(self.tokenizer), []
        asked, _ = self.retrieve(prompts)  # behind the documents that answers are written with
        for prompt, answer in zip(asked, answers, strict=True):
            begun = ask(renderer, prompt, self.chat, self.spec.system)
            said = self.tokenizer(answer, add_special_tokens=False).input_ids or [renderer.end]
            examples.append(Example(array("i", [*begun, *said]), bytes(len(begun)) + b"\x01" * len(said)))
        return numpy.exp(-self.losses(examples))

    def said(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
        """Answer prompts, or say in short texts what the model says of them."""
        if self.task.generates:
            return self.generate(prompts, True, **options)
        return self.task.said(self.predict(prompts))

    def save(self, path: Path, progress: Progress) -> Path:
        """Write it as a plain PEFT folder."""
        model = self.open(progress)
        from peft_nb.adapters.save import save

        record, told = self._record, rows.told(self._record.folder)
        options: dict[str, Any] = {"tokenizer": self.tokenizer, "history": record.curve(), "data": told}
        options["tags"] = record.now.tags
        with self.using:
            return save(model, path, self.spec, record.facts, record.metrics, **options)

    def merge(
        self, folder: Path, dtype: str | None, max_kl: float, prompts: Sequence[str] | None, progress: Progress
    ) -> Merged:
        """Write a plain model with the adapter in its weights, once it is proven to do the same."""
        import_training(progress)
        from peft_nb.adapters import merge

        facts, metrics = self._record.facts, self._record.metrics
        dtype = dtype or facts.dtype or "float32"
        merge.refuse(self.spec, facts, folder, dtype, max_kl)
        with self.using:
            model = self.open(progress)
            examples, compared_on = self._to_compare(prompts)
            live, source = (model, self.tokenizer, folder), self._source()
            told = self.spec, facts, metrics
            return merge.merge(*live, source, *told, examples, compared_on, dtype, max_kl, progress)

    @contextmanager
    def live(self, progress: Progress) -> Iterator[Live]:
        """The model in memory with texts to compare others on, for as long as the context lasts."""
        with self.using:
            model = self.open(progress)
            yield Live(model, self.tokenizer, self._record.facts, *self._to_compare(None))

    def for_script(self, namespace: Mapping[str, Any], progress: Progress) -> tuple[Base, Side, Side]:
        """Load the base and find the training and evaluation examples; rows may be among the notebook's variables."""
        record = self._record
        if self._at_work():
            raise RunError(f"run {record.id} is {record.status}; call wait() or stop() before exporting it")
        inputs = replace(self.inputs, namespace=namespace or self.inputs.namespace)
        context = Context(self.spec, inputs, record.folder, record.facts, publish=record.publish)
        base = self._base(progress, record.folder / "adapter")
        with quiet():
            return base, *rows.for_script(context, base)

    def _base(self, progress: Progress, folder: Path) -> Base:
        """Load the base; what is being done is told and not kept, for the run itself has ended."""

        def publish(event: Event) -> None:
            progress(0, event.what) if isinstance(event, Preparing) else self._record.publish(event)

        import_training(progress)
        with quiet():
            return models.load_base(self.spec, self._source(), self._record.facts, publish, folder)

    def base_folder(self, progress: Progress) -> Path:
        """The folder of the base's original weights, fetched where it is not there yet."""
        if (source := self._source()).pair:
            raise RunError("the base was made in memory and has no files; --as gguf writes it with the adapter in it")
        import_training(progress)
        with quiet():
            return located(source, progress, [])

    def base_config(self) -> Mapping[str, Any]:
        """The base's config where that takes no fetching and no loading, else nothing."""
        source = self._source()
        if source.pair:
            return source.pair[0].config.to_dict()
        alias = ALIASES.get(source.name)
        folder = source.path or (bundled.where(alias) if alias else None)
        if source.gguf_file or not folder or not (folder / "config.json").exists():
            return {}
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()

    def _source(self) -> Any:
        return models.find(self.spec, self.inputs)

    def _to_compare(self, prompts: Sequence[str] | None) -> tuple[list[Any], str]:
        """Texts to compare another model on: evaluation rows, else learned ones, else built-in prompts."""
        from peft_nb.evaluation import agreement

        examples, name = ((), "") if prompts else rows.compared_on(self._record.folder)
        if len(examples):
            chosen = agreement.some(examples)
            return chosen, f"{len(chosen)} {name}"
        name, asked = ("prompts", list(prompts)) if prompts else ("built-in prompts", list(agreement.PROMPTS))
        facts = self._record.facts
        found = self.task.reference(self.model, self.tokenizer, asked, self.spec, facts.task, self.chat)
        return found, f"{len(asked)} {name}"

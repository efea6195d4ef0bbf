"""What a task is: everything about a run that depends on what it learns.

Torch-free: methods import what is heavy when they are called. `facts` are what a task has found out about a run's rows
and its head, such as the names of the classes: plain values that JSON holds, kept so that the run can be opened again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peft_nb.data.prompts import Asked
from peft_nb.errors import DataError, RunError
from peft_nb.events import Progress, Sampled
from peft_nb.metrics import Metric
from peft_nb.models.live import UNCHANGED, Changes

if TYPE_CHECKING:
    import numpy
    import pandas
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

    from peft_nb.data.examples import Encoded, Example
    from peft_nb.data.layouts import Layout
    from peft_nb.data.quality.checks import Checked
    from peft_nb.data.rendered import RenderedRows
    from peft_nb.evaluation.agreement import Agreement
    from peft_nb.evaluation.evaluators import Evaluator
    from peft_nb.models.load import Base
    from peft_nb.spec import RunSpec
    from peft_nb.training.objectives import Objective

Facts = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Written:
    """Answers that a model writes itself in each step.

    Attributes
    ----------
    count, longest : int
        Answers to each prompt, and tokens of each at most.
    """

    count: int
    longest: int


@dataclass(frozen=True)
class Look:
    """Inputs that are no texts, as they are compared with others.

    Attributes
    ----------
    what : str
        What one of them is called, such as ``image``.
    vectors : numpy.ndarray
        What the base makes of each, shape ``(inputs, size)``, of length 1.
    name, unit : str
        What is measured of each, such as its length, and in what.
    values : numpy.ndarray
        That, shape ``(inputs,)``.
    """

    what: str
    vectors: numpy.ndarray
    name: str
    unit: str
    values: numpy.ndarray


class Task:
    """One thing that a run can learn; a new one is a subclass in a file of its own and one call of `register`.

    What a subclass does not override is that of a model which writes texts.

    Attributes
    ----------
    name, help, source : str
        What ``task:`` says, what is learned in one line, and where it comes from.
    accepts : tuple of str
        Kinds of layouts whose rows it learns from: ``chat``, ``text``, ``labelled``.
    wants : str
        How the columns of other rows are to be named, for the message that refuses them.
    unit : {"token", "text", "pair", "answer", "image"}
        What a mean loss is divided by.
    loss_unit : str
        What a loss is measured in, of one unit.
    counted_in : str
        What the costs of examples, and the speed of a run, are counted in.
    tokenwise : bool
        Whether every token is predicted, over the vocabulary.
    stratify : bool
        Whether rows are held out in the share of their labels.
    generates : bool
        Whether a trained model writes texts; else it says something of them, and ``Run.predict`` asks it.
    learned, instead : str
        What the model card says that is learned; what is said to who asks it for what it does not do.
    pipeline_tag, auto_class, peft_type : str
        As hubs, transformers and PEFT call it; PEFT has no name for some.
    tags : tuple of str
        What else hubs find it by.
    reader_class : str
        What transformers makes of text or of an image what a model takes.
    base : {"causal", "vision", "speech", "diffusion"} or None
        What a base is loaded as; None takes what one of texts was made for.
    target_modules : tuple of str
        Layers that get an adapter where a spec names none; empty leaves them to the method.
    draws : bool
        Whether the model draws images, which are shown also where there is no evaluation set.
    model : str or None
        Base to begin with, where it is not the default of the spec.
    unused : mapping of str to str
        Fields of a spec that it has no use for, and why.
    options : mapping of str to object
        Fields of a spec that only some tasks have, those that this one has, with what ``null`` stands for.
    rate : float
        What a method's default learning rate is multiplied by.
    proposed : bool
        Whether it is taken for rows that it accepts where a spec names no task.
    metrics : tuple of Metric
        Metrics of its own.
    script : str
        Why a run cannot be written as a script without peft_nb; empty where it can.
    """

    name: str
    help: str
    source: str = ""
    accepts: tuple[str, ...] = ("chat", "text")
    wants: str = ""
    unit: Literal["token", "text", "pair", "answer", "image"] = "token"
    loss_unit: str = "nats"
    counted_in: str = "tokens"
    tokenwise: bool = True
    stratify: bool = False
    generates: bool = True
    learned: str = "to write texts"
    instead: str = "writes texts and knows no classes; call generate() on it"
    pipeline_tag: str = "text-generation"
    auto_class: str = "AutoModelForCausalLM"
    reader_class: str = "AutoTokenizer"
    peft_type: str = "CAUSAL_LM"
    tags: tuple[str, ...] = ()
    base: Literal["causal", "vision", "speech", "diffusion"] | None = "causal"
    target_modules: tuple[str, ...] = ()
    draws: bool = False
    model: str | None = None
    unused: Mapping[str, str] = {}
    options: Mapping[str, Any] = {}
    rate: float = 1.0
    proposed: bool = False
    metrics: tuple[Metric, ...] = ()
    script: str = ""

    @property
    def verb(self) -> str:
        """The method of a run that asks its model."""
        return "generate" if self.generates else "predict"

    @property
    def ordinary(self) -> Task:
        """The task by which texts are read that it must not get worse at; itself, unless its own rows are others."""
        return self

    def problems(self, spec: RunSpec) -> list[str]:
        """What is wrong with the task's own options, one line each."""
        return []

    def written(self, spec: RunSpec) -> Written | None:
        """Say which answers each step writes and has rewarded; None for a task that learns from its rows' own."""
        return None

    def compared(self, spec: RunSpec) -> bool:
        """Whether each step and each evaluation first reads all that it takes, to compare it with something."""
        return False

    def lighter(self, spec: RunSpec) -> Iterator[dict[str, Any]]:
        """Give settings of its own that take less memory, those first that change least of what is learned."""
        yield from ()

    # ---- rows

    def validate(self, layout: Layout, spec: RunSpec) -> None:
        """Refuse rows that do not fit the task, before anything is loaded.

        Raises
        ------
        DataError
            One line that says how to fix it.
        """
        if layout.kind not in self.accepts:
            raise DataError(f"{layout.why}: task: {self.name} learns from other rows; {self.wants}")

    def inspect(self, rows: Rows, layout: Layout) -> Facts:
        """Find out what the training rows say about the task, such as the classes."""
        return {}

    def validate_eval(self, rows: Rows, layout: Layout, facts: Facts, row_name: str) -> None:
        """Refuse evaluation rows that the training rows do not explain, as a DataError."""

    def check(self, *tables: Any, **how: Any) -> Checked:
        """Look for what is wrong with rows; parameters and result as of :func:`.quality.checks.check`."""
        from peft_nb.data.quality import checks

        return checks.check(*tables, **how)

    def state(self, rows: Rows, layout: Layout) -> str:
        """Tell what rows depend on beside their cells, such as files that they name."""
        return ""

    def groups(self, contents: Sequence[Any], *, progress: Progress | None = None) -> Sequence[int]:
        """Give each row the number of the first that says the same or nearly so; its contents are what it says."""
        from peft_nb.data.quality import duplicates

        return duplicates.groups(contents, progress=progress)

    def encode(
        self,
        rendered: RenderedRows,
        spec: RunSpec,
        facts: Facts,
        *,
        cache: Path | None = None,
        fingerprint: str = "",
        row_name: str = "row",
        progress: Callable[[float, str], None] | None = None,
    ) -> tuple[str, Encoded]:
        """Turn rows into examples.

        Parameters
        ----------
        rendered : RenderedRows
            The rows as the model will see them.
        spec : RunSpec
            The run's settings.
        facts : dict
            What :meth:`inspect` found.
        cache : Path, optional
            Folder of encoded rows, where the same rows are found again; without one they stay in memory.
        fingerprint : str
            Of the data that the rows are a part of.
        row_name : str, default "row"
            What errors call a row, such as ``evaluation row``; also tells the part.
        progress : callable, optional
            Told how far it is.

        Returns
        -------
        tuple of str and Encoded
            The name in the cache (empty without one), and the examples with a report.

        Raises
        ------
        DataError
            When rows cannot be used: all of them counted, the first five named.
        """
        raise NotImplementedError(f"task {self.name} does not say how rows are encoded")

    def sequences(self, example: Example) -> tuple[Example, ...]:
        """What a model reads of an example, each by itself."""
        return (example,)

    def prompts(self, rows: Rows, layout: Layout, numbers: Sequence[int], facts: Facts) -> list[Asked]:
        """Choose a few rows, evenly spread, as prompts with what is right, to be asked later."""
        from peft_nb.data import prompts

        return prompts.of_rows(rows, layout, numbers)

    def conversations(
        self, rows: Rows, layout: Layout, numbers: Sequence[int], spec: RunSpec, most: int
    ) -> list[dict[str, Any]]:
        """Choose rows to be answered after training: ``messages``, ``reference``, ``options`` and ``documents``."""
        return []

    # ---- model and loss

    def limit(self, base: Base, spec: RunSpec, facts: Facts) -> None:
        """Note in the facts what the base bounds, such as the longest text."""

    def supply(self, base: Base, spec: RunSpec, facts: Facts, progress: Progress) -> None:
        """Make what the rows are to be learned with, such as images that the base draws, and note it in the facts."""

    def build(self, base: Base, facts: Facts) -> tuple[PreTrainedModel, list[str]]:
        """Make the model to train: a module tree of its own over the base's tensors, and the names of its new parts."""
        from peft_nb.models.share import share

        return share(base.model), []

    def require(self, config: Any, method: str) -> None:
        """Refuse an adapter, given PEFT's config of it, that the task cannot be used with, as a MethodError."""

    def counted(self) -> Facts:
        """Facts of a typical run, with which the methods are counted on a model."""
        return {}

    def objective(
        self,
        model: PeftModel,
        examples: Sequence[Example],
        pad_id: int,
        device: torch.device,
        spec: RunSpec,
        facts: Facts,
        *,
        supported: bool,
    ) -> Objective:
        """Choose how a micro-batch becomes a loss, having checked it against the padded reference."""
        from peft_nb.training import objectives

        return objectives.choose(model, examples, pad_id, device, fast=spec.fast, supported=supported)

    def foreseen(self, model: PeftModel, pad_id: int, spec: RunSpec, facts: Facts, *, supported: bool) -> Objective:
        """Say which objective will be chosen, by shapes alone."""
        from peft_nb.training import objectives, packing

        short = packing.short_positions(model.get_base_model().config)
        if reason := objectives.unwanted(model.get_base_model(), spec.fast, supported) or objectives.obstacle(model):
            chunked = spec.fast and objectives.chunkable(model)
            return objectives.Padded(pad_id, reason, short=short, chunked=chunked)
        return objectives.PaddingFree(share_prefix=spec.dropout == 0, short=short)

    # ---- the trained model

    def measure(
        self,
        model: PeftModel,
        objective: Objective,
        examples: Sequence[Example],
        device: torch.device,
        budget: int,
        facts: Facts,
    ) -> dict[str, Any]:
        """Measure the task's own metrics on the evaluation set, with the objective installed."""
        return {}

    def watched(
        self, model: PeftModel, tokenizer: Any, objective: Any, examples: Sequence[Example], step: int, facts: Facts
    ) -> Iterator[Sampled]:
        """Say what a model that answers no prompts says of a few evaluation examples after a step, to be shown."""
        yield from ()

    def warning(self, spec: RunSpec, losses: Sequence[float], metrics: Mapping[str, Any]) -> str:
        """Say in a line what looks wrong about a training, given all logged losses; or nothing.

        Asked when the training has ended, and again when the model has been evaluated and more metrics are known.
        """
        return ""

    def evaluator(self) -> type[Evaluator]:
        """What measures a trained model."""
        from peft_nb.evaluation.evaluators import Evaluator

        return Evaluator

    def asked(self, given: Any) -> list[Any]:
        """Turn what ``Run.predict`` was given into a list; RunError for what the task does not read."""
        several = [given] if isinstance(given, str) else list(given)
        if wrong := [type(one).__name__ for one in several if not isinstance(one, str)]:
            raise RunError(f"predict() takes texts, and found a {wrong[0]} among them; turn it into text or drop it")
        return several

    def predict(self, model: PeftModel, tokenizer: Any, texts: Sequence[str], facts: Facts) -> pandas.DataFrame:
        """Say what the model says of texts: one row a text, in a column ``label`` what it says."""
        raise RunError(self.instead)

    def unlabelled(self, given: Any, tokenizer: Any, facts: Facts) -> list[Example]:
        """Turn inputs that are no texts, as ``Run.predict`` takes them, into examples without what is learned."""
        raise RunError(f"a model that {self.instead} takes texts")

    def look(self, model: PeftModel, tokenizer: Any, examples: Sequence[Example], facts: Facts) -> Look | None:
        """Look at examples that are no texts, to compare them with others; None where they are texts."""
        return None

    def predicted(
        self, model: PeftModel, tokenizer: Any, examples: Sequence[Example], facts: Facts
    ) -> pandas.DataFrame:
        """Say what the model says of examples that are no texts; result as of :meth:`predict`."""
        raise RunError(self.instead)

    def said(self, predicted: pandas.DataFrame) -> list[str]:
        """Write predictions as short texts, one a row, to show them beside those of others."""
        return [str(label) for label in predicted["label"]]

    def reference(
        self, model: PeftModel, tokenizer: Any, prompts: Sequence[str], spec: RunSpec, facts: Facts, chat: bool
    ) -> list[Any]:
        """Let the model answer prompts, and take its answers for what is right."""
        from peft_nb.evaluation import agreement

        return agreement.answered(model, tokenizer, prompts, chat=chat, system=spec.system)

    def agreement(self, model: Any, other: Any, examples: Sequence[Any], facts: Facts) -> Agreement:
        """Measure how far a model says what another one says."""
        from peft_nb.evaluation import agreement

        return agreement.agreement(model, other, examples, agreement.by_token)

    # ---- files

    def beside(self, model: PeftModel, facts: Facts) -> list[Any]:
        """What to save beside the adapter, by its ``save_pretrained``, where PEFT's own files do not say it."""
        return []

    def unmergeable(self, facts: Facts) -> str:
        """Why no class of transformers can hold the merged model, or an empty string."""
        return ""

    def usage(
        self, base: str, spec: RunSpec, facts: Facts, tokenizer: Any, *, chat: bool, changes: Changes = UNCHANGED
    ) -> str:
        """Write the Python lines that use a saved adapter without peft_nb; `base` is a quoted name."""
        raise NotImplementedError(f"task {self.name} does not say how its adapters are used")

    def described(self, facts: Facts) -> Iterator[str]:
        """Describe the facts in lines for the model card."""
        yield from ()

    def limits(self, metrics: Mapping[str, Any]) -> Iterator[str]:
        """Say what the metrics leave open, for the model card."""
        yield from ()

"""What every method would train on a given model, counted on its architecture without a single weight."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.errors import MethodError, ModelError
from peft_nb.events import Progress, silent
from peft_nb.methods import REGISTRY, Method, attach, problems, tasks_of
from peft_nb.models import hub
from peft_nb.models.load import Base, auto_class, made_for, sized_by
from peft_nb.models.meta import shallow, shapes_alone
from peft_nb.models.quiet import first_line, quiet
from peft_nb.models.resolve import ModelSource, resolve
from peft_nb.planning import memory
from peft_nb.planning.workload import Load
from peft_nb.spec import METHODS, RunSpec
from peft_nb.system import known, resources
from peft_nb.system.lazy import import_training, uncollected, without_bitsandbytes
from peft_nb.system.resources import MB
from peft_nb.tasks import Task, for_base
from peft_nb.training.hooks import Hooks

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedConfig

MICRO = Load(tokens=2048, positions=2048, predicted=1024)  # 8 rows of 256 tokens, half of them answers
FEW = 3  # layers on which is counted what a model of many layers has: the fewest whose upper ones are all but two


@dataclass(frozen=True)
class Fitted:
    """A method on a model: what it trains there, or why it cannot.

    Attributes
    ----------
    name : str
        The method's.
    parts : str
        The parts of the model that it works on.
    trained : int, optional
        Trainable parameters; None when it does not fit.
    total : int
        Parameters of the model and what was added.
    saved_bytes : int, optional
        Size of what is saved, in float32, without the file's header of some kilobytes.
    memory_mb : float, optional
        About what a run with the defaults takes at its peak, :data:`MICRO` being its largest micro-batch; in MB
        (10^6 bytes). ``%peft estimate`` knows it better, for it knows the rows.
    why_not : str
        Why it does not fit.
    """

    name: str
    parts: str = ""
    trained: int | None = None
    total: int = 1
    saved_bytes: int | None = None
    memory_mb: float | None = None
    why_not: str = ""

    @property
    def method(self) -> Method:
        """The method."""
        return REGISTRY[self.name]


# A column is its name and what it says of a method on a model; None where there is nothing to say.
COLUMNS: dict[str, Callable[[Fitted], Any]] = {
    "trained layers": lambda fitted: fitted.parts or fitted.why_not,
    "trainable parameters": lambda fitted: fitted.trained,
    "% of the model": lambda fitted: None if fitted.trained is None else round(100 * fitted.trained / fitted.total, 4),
    "adapter MB": lambda fitted: None if fitted.saved_bytes is None else round(fitted.saved_bytes / MB, 3),
    "memory MB": lambda fitted: None if fitted.memory_mb is None else round(fitted.memory_mb),
    "mergeable": lambda fitted: fitted.method.mergeable,
    "hot-swap": lambda fitted: fitted.method.swappable,
    "quantization": lambda fitted: ", ".join(fitted.method.quantizations),
    "batching": lambda fitted: "padding-free" if fitted.method.padding_free else "padded",
    "tasks": lambda fitted: ", ".join(tasks_of(fitted.method)),
    "when": lambda fitted: fitted.method.when,
    "source": lambda fitted: fitted.method.source,
}


def table(
    model: Any,
    *,
    revision: str | None = None,
    namespace: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> pandas.DataFrame:
    """List the methods with what each would train on a model.

    Parameters
    ----------
    model : str, path or tuple
        What ``RunSpec.model`` names, or a folder with a ``config.json`` alone. Weights are neither loaded nor fetched.
    revision : str, optional
        Branch, tag or commit of a model from the hub.
    namespace : mapping, optional
        The notebook's variables.
    progress : callable, optional
        Told how far it is.

    Returns
    -------
    pandas.DataFrame
        One row a method, in the columns of :data:`COLUMNS`. A method that does not fit has its reason in place of
        its trained layers, and no numbers. Encoders are counted with a classifier of two classes.

    Raises
    ------
    ModelError
        When the model is not on this machine or of no kind that can be trained.
    """
    import pandas

    source = _source(model, revision, namespace)
    file = source.path and source.path / "config.json"
    if source.gguf_file or not (file and file.is_file()):
        found = _counts(source, progress)
    else:
        versions = [metadata.version(name) for name in ("transformers", "peft", "peft_nb")]
        about: dict[str, Any] = {
            "config": file.read_text(encoding="utf-8"),
            "methods": list(METHODS),
            "versions": versions,
        }
        about |= known.machine()
        found = known.once("fitted", about, lambda: _counts(source, progress), days=1)
    rows = [Fitted(**one) for one in found]
    cells = {column: [say(one) for one in rows] for column, say in COLUMNS.items()}
    shown = pandas.DataFrame(cells, index=pandas.Index([one.name for one in rows], name="method"))
    return shown.convert_dtypes()  # whole numbers stay whole beside those that are missing


def _counts(source: ModelSource, progress: Progress) -> list[dict[str, Any]]:
    """Fit every method on a model; the fields of what is found."""
    import_training(progress)
    from peft_nb.training.probe import fastest_dtype

    found = []
    with quiet(), uncollected():
        config = _config(source)
        dtype = fastest_dtype(config, resources.device("auto"))
        bases, process = counted_bases(source, config), memory.process()
        for done, name in enumerate(METHODS):
            progress(done / len(METHODS), name)
            found.append(asdict(fitted(REGISTRY[name], bases, config, dtype, process)))
    return found


def fitted(
    method: Method, bases: Sequence[Base], config: PreTrainedConfig, dtype: str = "float32", process: float = 0.0
) -> Fitted:
    """Put a method on a model's architecture and count.

    Parameters
    ----------
    method : Method
        With its defaults.
    bases : sequence of Base
        What :func:`counted_bases` gives.
    config : transformers.PreTrainedConfig
        The model's architecture.
    dtype : str
        The precision.
    process : float
        Bytes of this process without a base.

    Returns
    -------
    Fitted
        Exact counts, or why the method does not fit.
    """
    task = for_base(made_for(config))
    spec = RunSpec(data="rows", method=method.name, task=task.name)
    if cannot := problems(spec):
        return Fitted(method.name, why_not="; ".join(one.removeprefix("method: ") for one in cannot))
    try:
        counts, *more = (_counted(method, spec, base, task) for base in bases)
        for one in more:
            counts = counts.continued(one, sized_by(config).num_hidden_layers - FEW)
    except MethodError as error:
        return Fitted(method.name, why_not=str(error).removeprefix("method: "))
    shapes = memory.Shapes.of(config, dtype)
    padded = not method.padding_free
    activations = shapes.activations(MICRO.tokens, shapes.kept(padded), spec.gradient_checkpointing)
    loss = shapes.loss(MICRO, whole=not spec.fast) if task.tokenwise else 0.0
    weights = memory.weights(counts.weights, counts.inner, method.quantization(spec), 4 if dtype == "float32" else 2)
    held = weights + memory.trained(counts.trained) + 2 * memory.FLOAT * counts.trained
    moving = (1 + memory.HOLES) * (activations + loss)
    grown = memory.growth(task.tokenwise, memory.KERNELS if dtype == "bfloat16" else 0)
    peak = (held + moving + process + grown) / MB
    parts = f"{', '.join(counts.kinds)} ({counts.owners:,})"
    return Fitted(method.name, parts, counts.trained, counts.total, 4 * counts.saved, peak)


@dataclass(frozen=True)
class Counts:
    """Numbers of a model with a method on it: in its weights, in the linear layers, trained, in all, saved, owners."""

    kinds: tuple[str, ...]
    weights: int
    inner: int
    trained: int
    total: int
    saved: int
    owners: int

    def continued(self, more: Counts, layers: int) -> Counts:
        """What there is with so many further layers, given what there is with one more."""
        names = ("weights", "inner", "trained", "total", "saved", "owners")
        each = {name: getattr(more, name) - getattr(self, name) for name in names}
        return Counts(self.kinds, **{name: getattr(self, name) + layers * step for name, step in each.items()})


def counted_bases(source: ModelSource, config: PreTrainedConfig) -> list[Base]:
    """Make what methods are counted on: a base of few layers and one of one more where all others are alike, else it.

    Parameters
    ----------
    source : ModelSource
        The model.
    config : transformers.PreTrainedConfig
        Its architecture.

    Returns
    -------
    list of Base
        Shapes without memory.
    """
    layers = getattr(sized_by(config), "num_hidden_layers", 0)  # a model in stages has layers of all sizes
    whole = _base(source, config)
    if layers <= FEW + 1:
        return [whole]
    few, more = (_base(source, shallow(config, some)) for some in (FEW, FEW + 1))
    counts = [
        Counter((re.sub(r"\d+", "#", name), one.shape) for name, one in base.model.named_parameters())
        for base in (few, more, whole)
    ]
    each = {kind: counts[0][kind] + (counts[1][kind] - counts[0][kind]) * (layers - FEW) for kind in counts[1]}
    return [few, more] if counts[2] == each else [whole]


def _counted(method: Method, spec: RunSpec, base: Base, task: Task) -> Counts:
    """Count what a method trains and saves on a base."""
    from peft import get_peft_model_state_dict

    with shapes_alone():
        bare, whole = task.build(base, task.counted())
        weights, inner = memory.sizes(bare)
        with without_bitsandbytes():
            model = attach(bare, spec, base.source.name, whole, peft_type=task.peft_type)
        task.require(model.peft_config["default"], spec.method)
        trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
        total = sum(one.numel() for one in model.parameters())
        owners = getattr(model.base_model, "targeted_module_names", None) or _owners(model)
        hooks = method.hooks(spec)
        if type(hooks).end is not Hooks.end:  # it saves something else than it trains
            hooks.begin(model, ())
            hooks.end(model)
        saved = get_peft_model_state_dict(model, save_embedding_layers=False)
    kinds = tuple(dict.fromkeys(layer.rpartition(".")[2] for layer in owners))
    return Counts(kinds, weights, inner, trained, total, sum(one.numel() for one in saved.values()), len(owners))


def _source(model: Any, revision: str | None, namespace: Mapping[str, Any] | None) -> ModelSource:
    if isinstance(model, str | Path) and (Path(model).expanduser() / "config.json").is_file():
        return ModelSource(str(model), "folder", path=Path(model).expanduser())
    source = resolve(model, revision, namespace)
    if not source.pair and source.path is None:
        fix = "a run downloads it, and a folder with its config.json is enough here"
        raise ModelError(f"no model {source.name!r} on this machine yet; {fix}")
    return source


def _config(source: ModelSource) -> PreTrainedConfig:
    import copy

    from transformers import AutoConfig

    if source.pair:
        return copy.deepcopy(source.pair[0].config)
    if source.path and hub.is_pipeline(source.path):
        from peft_nb.models import diffusion

        return diffusion.config(source.path, source.name)
    file = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    try:
        return AutoConfig.from_pretrained(source.path, local_files_only=True, trust_remote_code=False, **file)
    except Exception as error:  # transformers raises whatever it likes at files it cannot use
        raise ModelError(f"the config.json of {source.name} cannot be read: {first_line(error)}") from None


def _base(source: ModelSource, config: PreTrainedConfig) -> Base:
    """Make a frozen model of shapes."""
    from types import SimpleNamespace

    import torch

    try:
        with shapes_alone():
            if source.path and hub.is_pipeline(source.path):
                from peft_nb.models import diffusion

                model: Any = diffusion.assembled(source.path, config, "meta", "float32")
            else:
                model = auto_class(made_for(config)).from_config(config, dtype=torch.float32).requires_grad_(False)
    except ValueError as error:
        raise ModelError(f"{source.name} is not of a kind that can be trained here: {first_line(error)}") from None
    pad = SimpleNamespace(pad_token_id=getattr(config, "pad_token_id", None))  # all that is asked of a tokenizer
    return Base(model, pad, source, "float32", "none", "meta", source.name, folder=source.path)


def _owners(model: Any) -> list[str]:
    names = (name.split(".")[:-1] for name, one in model.named_parameters() if one.requires_grad)
    return list(dict.fromkeys(".".join(one for one in name if not one.isdecimal()) for name in names))

"""The registry of methods: what each is, what it can serve, and putting one into a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from peft_nb.errors import MethodError, nearest
from peft_nb.methods.config_source import ConfigClass
from peft_nb.methods.routers import routers
from peft_nb.spec import METHODS, register_name
from peft_nb.system import peft_private
from peft_nb.system.lazy import without_bitsandbytes
from peft_nb.tasks import TASKS
from peft_nb.training.hooks import Hooks

if TYPE_CHECKING:
    import pandas
    from peft import PeftConfig, PeftModel

    from peft_nb.spec import RunSpec

ALL_LINEAR, LAYERS = "all-linear", "layers_to_transform"

# Fields of a spec that only some methods have a use for, and how to say that one has none.
FIELDS = {
    "r": "no rank",
    "alpha": "no scale",
    "dropout": "no dropout",
    "target_modules": "no choice of layers",
    "num_virtual_tokens": "no virtual tokens",
}


@dataclass(frozen=True)
class Method:
    """One way to fine-tune.

    Attributes
    ----------
    name : str
        The word after ``%%peft``.
    help : str
        What it does, one line.
    when : str
        When to use it, one line.
    source : str
        The paper it comes from.
    config_class : callable
        Gives PEFT's config class; imports PEFT itself.
    fields : mapping
        The fields of a spec that it has a use for, and what the config calls them.
    defaults : mapping
        What ``null`` in a field of the spec resolves to; from the source where that says so.
    options : mapping
        Fields of the config that make the method what it is; ``method_options`` may change them.
    own : mapping
        Options beyond the config's fields, with their defaults.
    required : tuple of str
        Options that have to be given.
    fitted : callable
        Gives fields of the config that follow from the completed spec, the model's config and the number of
        optimizer steps.
    rows : int
        Fewer training rows than this seldom do, as a rule of thumb.
    quantizations : tuple of str
        How the base may be quantized; the first is the default.
    padding_free : bool
        Whether the method adds no virtual tokens, so that examples may lie end to end.
    mergeable : bool
        Whether the adapter can be folded into the base's weights.
    swappable : bool
        Whether PEFT can swap such an adapter for another one in place.
    peft_types : tuple of str
        PEFT's task types that it can serve, such as ``CAUSAL_LM``; empty for any.
    hooks : callable
        Gives what is to be done besides the usual in a run, see :class:`Hooks`; imports PyTorch itself.
    note : callable
        Says in a line what was done to a model, where that is not what one would think.
    """

    name: str
    help: str
    when: str
    source: str
    config_class: Callable[[], type[PeftConfig]]
    fields: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    fitted: Callable[[RunSpec, Any, int], Mapping[str, Any]] = lambda spec, model_config, steps: {}
    # OpenAI's guide to fine-tuning sees clear improvements from 50 to 100 examples on.
    rows: int = 50
    quantizations: tuple[str, ...] = ("none",)
    padding_free: bool = True
    mergeable: bool = True
    swappable: bool = False
    peft_types: tuple[str, ...] = ()
    hooks: Callable[[RunSpec], Hooks] = lambda spec: Hooks()
    note: Callable[[PeftModel], str] = lambda model: ""

    def quantization(self, spec: RunSpec) -> str:
        """How the base is quantized under a spec: ``none``, ``4bit`` or ``8bit``."""
        return spec.quantization or self.quantizations[0]

    def own_options(self, spec: RunSpec) -> dict[str, Any]:
        """The options beyond the config's fields under a spec."""
        return {name: spec.method_options.get(name, value) for name, value in self.own.items()}

    def serves(self, peft_type: str) -> bool:
        """Whether it can learn a task of this type of PEFT's."""
        return not self.peft_types or peft_type in self.peft_types

    def config(self, spec: RunSpec, model_config: Any, steps: int, peft_type: str) -> PeftConfig:
        """Make PEFT's config from a completed spec, the model's config, the number of steps and PEFT's task type.

        Raises
        ------
        MethodError
            When an option has a value that PEFT refuses.
        """
        values = {theirs: getattr(spec, ours) for ours, theirs in self.fields.items()}
        values = {name: value for name, value in values.items() if value is not None}
        values |= {**self.options, **self.fitted(spec, model_config, steps)}
        chosen = self.own.keys() | ({LAYERS} if spec.target_modules == ALL_LINEAR else set())  # PEFT takes not both
        values |= {name: value for name, value in spec.method_options.items() if name not in chosen}
        try:
            return self.config_class()(task_type=peft_type or None, **values)
        except (TypeError, ValueError) as error:
            said = ", ".join(f"{name}: {value}" for name, value in spec.method_options.items()) or "its options"
            raise MethodError(f"method_options: {self.name} does not take {said}: {error}") from None


REGISTRY: dict[str, Method] = {}


def tasks_of(method: Method) -> list[str]:
    """The registered tasks that a method serves."""
    return [name for name, task in TASKS.items() if method.serves(task.peft_type)]


def register(method: Method, *, listed: bool = True) -> None:
    """Make a method known to specs, magics and help.

    Parameters
    ----------
    method : Method
        The entry; its name must be new.
    listed : bool, default True
        Whether it is named where all methods are.
    """
    REGISTRY[method.name] = method
    register_name("method", method.name, method.help, listed=listed)


def complete(spec: RunSpec) -> RunSpec:
    """Fill in what a spec leaves to its method and its task.

    Parameters
    ----------
    spec : RunSpec
        A valid spec.

    Returns
    -------
    RunSpec
        The same with their defaults in place of ``null``.
    """
    task, usual = TASKS[spec.task], {**REGISTRY[spec.method].defaults, **TASKS[spec.task].options}
    if "learning_rate" in usual:
        usual["learning_rate"] *= task.rate
    if "target_modules" in usual and task.target_modules:
        usual["target_modules"] = list(task.target_modules)
    return type(spec)(**spec.changed() | {name: value for name, value in usual.items() if getattr(spec, name) is None})


def problems(spec: RunSpec) -> list[str]:
    """What a method cannot do with a spec, found before anything is loaded.

    Parameters
    ----------
    spec : RunSpec
        A valid spec.

    Returns
    -------
    list of str
        One line a problem; empty when the method can serve.
    """
    method = REGISTRY[spec.method]
    found, wanted = [], method.quantization(spec)
    if wanted not in method.quantizations:
        able = _able(lambda other: wanted in other.quantizations)
        takes = f"quantization: {spec.method} takes {' or '.join(method.quantizations)}, not {wanted}"
        found.append(takes + (f"; {able} do" if able else ""))
    peft_type = TASKS[spec.task].peft_type
    if not method.serves(peft_type):
        able = _able(lambda other: other.serves(peft_type))
        found.append(f"method: {spec.method} serves {', '.join(tasks_of(method))}, not {spec.task}; take {able}")
    for name, lack in FIELDS.items():
        if getattr(spec, name) not in (None, 0.0) and name not in method.fields:
            has = ", ".join(own for own in FIELDS if own in method.fields) or "none of these fields"
            found.append(f"{name}: {spec.method} has {lack}; it has {has}")
    found += [
        f"method_options: {spec.method} needs {name}" for name in method.required if name not in spec.method_options
    ]
    if spec.method_options:
        found += _unknown_options(method, spec.method_options)
    return found


def _able(fits: Callable[[Method], bool], most: int = 4) -> str:
    names = [other.name for other in REGISTRY.values() if fits(other)]
    return ", ".join(names[:most])


def _unknown_options(method: Method, given: Mapping[str, Any]) -> list[str]:
    known = {**dict.fromkeys(options(method)), **method.own}
    taken = {theirs: ours for ours, theirs in method.fields.items()}
    found = []
    for name in given:
        if name in taken:
            found.append(f"method_options: {name} is the field {taken[name]}; set that")
        elif name not in known:
            found.append(f"method_options: {method.name} has no {name!r}{nearest(name, known)}")
    return found


def options(method: Method) -> dict[str, Any]:
    """What ``method_options`` can set: fields of the config with their defaults.

    Parameters
    ----------
    method : Method
        The method.

    Returns
    -------
    dict of str to object
        Sorted by name.
    """
    import dataclasses

    reserved = {"peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"}
    # These would write into the base, which other runs share: its own biases, or weights that a start is taken from.
    reserved |= {"bias", "init_lora_weights"}
    reserved |= {"inference_mode", "modules_to_save", *method.fields.values()}
    if isinstance(method.config_class, ConfigClass):
        fields = method.config_class.fields()
    else:  # of another package
        given = dataclasses.fields(method.config_class())
        fields = {one.name: None if one.default is dataclasses.MISSING else one.default for one in given if one.init}
    found = {name: default for name, default in fields.items() if name not in reserved}
    return dict(sorted({**found, **method.options, **method.own}.items()))


def attach(
    model: Any, spec: RunSpec, base_name: str, whole: Sequence[str] = (), steps: int = 1, peft_type: str = "CAUSAL_LM"
) -> PeftModel:
    """Put a fresh adapter into a model.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A module tree of its own; its modules are replaced in place.
    spec : RunSpec
        Method and its settings.
    base_name : str
        What the saved adapter will name as its base.
    whole : sequence of str
        Parts of the model to train in full and save with the adapter, such as a classifier's head.
    steps : int, default 1
        Optimizer steps of the whole run.
    peft_type : str, default "CAUSAL_LM"
        PEFT's type of the task; empty where it has none.

    Returns
    -------
    peft.PeftModel
        Only the adapter's parameters and the parts trained in full are trainable, in float32.

    Raises
    ------
    MethodError
        If the method does not fit the model, such as one without modules that ``target_modules`` names.
    """
    from peft import get_peft_model

    spec = complete(spec)
    method = REGISTRY[spec.method]
    config = method.config(spec, model.config, steps, peft_type)
    if whole:
        config.modules_to_save = list(whole)
    left, layers = routers(model), spec.method_options.get(LAYERS)
    if spec.target_modules == ALL_LINEAR and (left or layers is not None or not peft_type):
        found = peft_private.all_linear(config, model) - left
        # Without a type of task PEFT does not know that these are a head.
        found = {name for name in found if peft_type or name.partition(".")[0] not in whole}
        config.target_modules = found if layers is None else _in_layers(found, layers)
    if spec.freeze_encoder:
        _leave_encoder(config, model, method.name)
    try:
        with without_bitsandbytes():  # many tuners import it to see whether a layer is one of its own
            adapted = get_peft_model(model, config)
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        if "arget modules" in str(error) and spec.target_modules is not None:
            raise MethodError(
                f"target_modules: {spec.target_modules!r} fits no layer of {type(model).__name__}; "
                "'all-linear' always does"
            ) from None
        why = str(error).strip().splitlines()[0]
        fix = "look at its method_options" if spec.method_options else "lora does"
        raise MethodError(f"method: {method.name} does not fit {type(model).__name__}: {why}; {fix}") from None
    adapted.peft_config["default"].base_model_name_or_path = base_name
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def _leave_encoder(config: PeftConfig, model: Any, method: str) -> None:
    """Let a method leave the encoder of a model as it is."""
    encoder = model.get_encoder()
    name = next((name for name, part in model.named_modules() if part is encoder), "")
    if not hasattr(config, "exclude_modules"):
        raise MethodError(f"freeze_encoder: {method} cannot leave out the encoder; set freeze_encoder: false")
    if config.exclude_modules:
        raise MethodError("method_options: exclude_modules says what to leave out; set freeze_encoder: false beside it")
    config.exclude_modules = rf"{re.escape(name)}\..*"


def _in_layers(names: set[str], layers: int | Sequence[int]) -> set[str]:
    """Those of some modules that lie in layers of these numbers."""
    wanted = {layers} if isinstance(layers, int) else {*layers}
    numbers = {name: next((int(part) for part in name.split(".") if part.isdecimal()), -1) for name in names}
    if not (found := {name for name in names if numbers[name] in wanted}):
        raise MethodError(f"method_options: {LAYERS}: {layers} are no layers; there are 0 to {max(numbers.values())}")
    return found


def methods() -> pandas.DataFrame:
    """List the methods.

    Returns
    -------
    pandas.DataFrame
        One row a method: what it does, when to use it, how the base may be quantized, whether it merges, which tasks
        it serves, where it comes from.
    """
    import pandas

    rows = [
        {
            "method": entry.name,
            "what it does": entry.help,
            "when": entry.when,
            "quantization": ", ".join(entry.quantizations),
            "mergeable": entry.mergeable,
            "tasks": ", ".join(tasks_of(entry)),
            "source": entry.source,
        }
        for entry in REGISTRY.values()
        if entry.name in METHODS
    ]
    return pandas.DataFrame(rows).set_index("method")

"""The adapter that a run starts from: found, taken over into its spec, held against its base and put into its model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb import store as stores
from peft_nb.errors import MethodError, PeftNbError, RunError, SpecError, StoreError
from peft_nb.events import ACTIVE
from peft_nb.methods import REGISTRY, Method, complete, options
from peft_nb.models import ALIASES
from peft_nb.models.load import LIVE, Base
from peft_nb.models.resolve import HUB_NAME
from peft_nb.models.weights import fingerprint
from peft_nb.runs.context import Context
from peft_nb.spec import RunSpec
from peft_nb.store import Facts, Record, Store
from peft_nb.store.contents import hashes
from peft_nb.system import adapter_weights
from peft_nb.tasks import TASKS, Task

if TYPE_CHECKING:
    from peft import PeftModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DIGITS = 12  # of a hash
# Fields of PEFT's configs that say how an adapter begins, or that PEFT fills in by itself; none changes its shape.
BEGINNING = {
    *("init_weights", "init_lora_weights", "init_ia3_weights", "corda_config", "eva_config", "loftq_config"),
    *("lora_ga_config", "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_kwargs", "tokenizer_name_or_path"),
    *("num_attention_heads", "num_layers", "num_transformer_submodules", "token_dim", "d_initial"),
    *("megatron_config", "megatron_core", "runtime_config"),
}


@dataclass(frozen=True)
class Start:
    """An adapter to start from.

    Attributes
    ----------
    word : str
        What a spec calls it: the id of a run in the same store, or a folder.
    title : str
        What messages call it.
    folder : Path
        Where it is.
    config : mapping
        Its settings, as PEFT saved them.
    spec : RunSpec or None
        Of the run that trained it, where that is known.
    record : Record or None
        The run in the store.
    """

    word: str
    title: str
    folder: Path
    config: Mapping[str, Any]
    spec: RunSpec | None
    record: Record | None

    @property
    def parents(self) -> list[str]:
        """Ids of the runs of the same store that it comes from."""
        return [self.record.id] if self.record and self.word == self.record.id else []

    def __str__(self) -> str:
        return f"{self.title}, weights {hashes(self.folder)[WEIGHTS][:DIGITS]}"


def find(word: str, store: Store, namespace: Mapping[str, Any] | None = None) -> Start:
    """Find an adapter; imports no PyTorch.

    Parameters
    ----------
    word : str
        A variable that holds a run, a folder as PEFT saves one, or a run's id, name, ``name@v2`` or ``name@alias``.
    store : Store
        Where runs are looked up first.
    namespace : mapping, optional
        The notebook's variables.

    Returns
    -------
    Start
        With files that can be read.

    Raises
    ------
    SpecError
        If there is none, or its run has written no adapter.
    """
    try:
        held: Any = (namespace or {}).get(word)
        folder, spec = Path(word).expanduser(), None
        if hasattr(held, "adapter_dir"):
            record = held.record.now
        else:
            record = None if (folder / CONFIG).is_file() else _recorded(word, store)
        if record:
            folder = record.folder / "adapter"
            if record.status in ACTIVE or not (folder / CONFIG).is_file():
                raise RunError(f"run {record.id} is {record.status} and has no adapter; wait() for it, or resume() it")
            names = dict.fromkeys((record.title, record.id))
            title, spec = " · ".join(names), RunSpec.from_yaml(record.spec_yaml)
            word = record.id if record.folder == store.folder_of(record.id) else str(folder.resolve())
        else:
            title = folder.name
            if (file := folder / "spec.yaml").is_file():
                spec = RunSpec.from_yaml(file.read_text(encoding="utf-8"))
            word = str(folder.resolve())
        if not (folder / WEIGHTS).is_file():
            raise RunError(f"{folder} holds no {WEIGHTS}; save the adapter again")
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (PeftNbError, OSError, ValueError) as error:
        raise SpecError([f"init_adapter: {error}"]) from None
    return Start(word, title, folder, config, spec, record)


def _recorded(word: str, store: Store) -> Record:
    try:
        return store.get(word)
    except StoreError as error:
        try:
            return stores.find(word)[1]
        except StoreError:
            raise error from None


def described(spec: RunSpec, start: Start) -> tuple[RunSpec, str]:
    """Take over what a spec leaves open; imports no PyTorch.

    Parameters
    ----------
    spec : RunSpec
        As it was written, with paths made absolute.
    start : Start
        What it starts from.

    Returns
    -------
    tuple of RunSpec and str
        The spec with the shape of the adapter, and a line that says what was taken over.

    Raises
    ------
    SpecError
        One line for each difference: of the task, the base, the method or the shape.
    """
    wrong = [f"init_adapter: {line}" for line in _refused(spec, start)]
    if wrong:
        raise SpecError(wrong)
    method, saved, taken = REGISTRY[spec.method], start.config, dict[str, Any]()
    for ours, theirs in method.fields.items():
        given, held = getattr(spec, ours), saved.get(theirs)
        if ours == "dropout" or held is None:  # of the training, not of the adapter
            continue
        if given is None:
            taken[ours] = _written(ours, held, start)
        elif _differ(given, held):
            wrong.append(f"{ours}: {start.title} has {_shown(held)}, not {_shown(given)}; leave it out")
    usual, told = options(method), dict(spec.method_options)
    for name in usual.keys() & saved.keys() - BEGINNING:
        held, given = saved[name], told.get(name, usual[name])
        if not _differ(given, held):
            continue
        if name in told:
            differs = f"{name} is {_shown(held)} in {start.title}, not {_shown(given)}"
            wrong.append(f"method_options: {differs}; leave it out")
        else:
            told[name] = held
    if wrong:
        raise SpecError(wrong)
    if told != spec.method_options:
        taken["method_options"] = {name: told[name] for name in sorted(told)}
    said = ", ".join(f"{name} {_shown(value)}" for name, value in taken.items())
    note = f"training starts from the adapter of {start.title}" + (f"; taken from it: {said}" if said else "")
    return RunSpec(**{**spec.changed(), **taken, "init_adapter": start.word}), note


def taken_over(spec: RunSpec, namespace: Mapping[str, Any] | None = None) -> RunSpec:
    """A spec as :func:`described` gives it, of a run in the default store; parameters and errors as there."""
    return described(spec, find(spec.init_adapter, Store(), namespace))[0] if spec.init_adapter else spec


def _refused(spec: RunSpec, start: Start) -> Iterator[str]:
    """Why an adapter cannot be trained on under a spec, whatever its shape."""
    title, config, method = start.title, start.config, REGISTRY[spec.method]
    if start.spec and not _alike(TASKS[start.spec.task], TASKS[spec.task]):
        yield f"{title} was trained for {start.spec.task}, not {spec.task}; write task: {start.spec.task}"
    known, wanted = str(config.get("base_model_name_or_path") or ""), spec.model
    wanted = ALIASES[wanted].public_name if wanted in ALIASES else wanted
    if known != wanted and HUB_NAME.fullmatch(known) and HUB_NAME.fullmatch(wanted) and not Path(wanted).exists():
        yield f"{title} was trained on {known}, not {wanted}; write model: {known}"
    if why := method.hooks(complete(spec)).fresh:
        yield f"{spec.method} cannot start from an adapter: {why}"
    elif not _made_by(method, config):
        able = [name for name, one in REGISTRY.items() if _made_by(one, config)]
        own = start.spec.method if start.spec and start.spec.method in able else next(iter(able), "")
        kind = own or str(config.get("peft_type"))
        yield f"{title} is an adapter of method {kind}, not {spec.method}" + (f"; write method: {own}" if own else "")
    elif config.get("bias", "none") != "none":
        yield f"{title} has biases of the base among its weights (bias: {config['bias']}), which all runs share"


def _alike(one: Task, other: Task) -> bool:
    """Whether adapters of one task can go on with another: both write texts, or they are the same."""
    return one is other or (one.generates and other.generates and one.peft_type == other.peft_type)


def _kind(method: Method) -> str:
    """PEFT's type of a method, told without importing PEFT."""
    return str(getattr(method.config_class, "name", method.name)).removesuffix("Config").replace("-", "").lower()


def _made_by(method: Method, config: Mapping[str, Any]) -> bool:
    """Whether a method makes such adapters: of its type, and with the options that tell it from others of that type."""
    if _kind(method) != str(config.get("peft_type")).replace("_", "").lower():
        return False
    own, alike = options(method), [options(one) for one in REGISTRY.values() if _kind(one) == _kind(method)]
    shared = {name for one in alike for name in one} - BEGINNING - set(method.own)
    telling = [name for name in shared if len({str(one.get(name)) for one in alike}) > 1]
    return not any(_differ(own.get(name), config.get(name, own.get(name))) for name in telling)


def _written(field: str, held: Any, start: Start) -> Any:
    """A value of a config as a spec has it."""
    if field == "target_modules":
        if start.spec and start.spec.target_modules == "all-linear":
            return "all-linear"
        return held if isinstance(held, str) else sorted(held)
    return held


def _differ(given: Any, held: Any) -> bool:
    """Whether two values say different things of a shape, as far as that can be told from them."""
    if isinstance(given, str) != isinstance(held, str) and isinstance(given or held, str | list):
        return False  # an expression, or all-linear, and the names that it stood for: the weights will tell
    if isinstance(given, list) and isinstance(held, list):
        return sorted(map(str, given)) != sorted(map(str, held))
    return bool(given or held) and given != held


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def same_labels(facts: Facts, start: Start) -> None:
    """Refuse rows with other labels than those of the adapter's head.

    Raises
    ------
    SpecError
        In one line.
    """
    theirs, mine = (one.task.get("classes") or [] for one in (start.record.facts if start.record else facts, facts))
    if theirs != mine:
        said = f"{start.title} tells {', '.join(theirs)} apart, these rows {', '.join(mine)}"
        raise SpecError([f"init_adapter: {said}; give rows with the same labels, or train without init_adapter"])


def needed(context: Context) -> Start | None:
    """Find the adapter that a run starts from, unless it resumes from a checkpoint of its own."""
    from peft_nb.training import checkpoint

    if context.spec.init_adapter is None or checkpoint.latest(context.folder / "checkpoints"):
        return None
    word = str(context.inputs.adapter or context.spec.init_adapter)
    return find(word, Store(context.folder.parent.parent))


def check(start: Start, adapted: PeftModel, base: Base) -> None:
    """Refuse an adapter that was trained on other weights, or has another shape.

    Raises
    ------
    MethodError
        In one line.
    """
    if start.record and start.record.facts.base_hash:
        facts = start.record.facts
        comparable = bool(base.source.pair) == (f" ({LIVE}) " in str(facts.base))
        if comparable and fingerprint(base) != facts.base_hash:
            other = f"was trained on {facts.base}, and this base has other weights"
            raise MethodError(f"init_adapter: {start.title} {other}; write the model that it was trained on")
    if differs := adapter_weights.difference(adapted, start.folder):
        raise MethodError(f"init_adapter: {start.title} has another shape: {differs}; leave out what sets it")

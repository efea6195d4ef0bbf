"""Adapters on disk, and what can be known of them before they are loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from peft_nb.errors import MethodError, ModelError
from peft_nb.spec import RunSpec
from peft_nb.store import Facts, Store
from peft_nb.store.space import ROWS
from peft_nb.system import adapter_weights

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

# Of LoRA's settings: those with which PEFT cannot answer rows of one batch by different adapters, or with which what is
# loaded for one adapter would reach the others.
APART = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters", "alora_invocation_tokens")


class Adapted(Protocol):
    """What is needed of a :class:`peft_nb.Run`."""

    id: str
    spec: RunSpec

    @property
    def model(self) -> PeftModel:
        """The base with the adapter."""

    @property
    def tokenizer(self) -> Any:
        """The base's tokenizer."""

    @property
    def adapter_dir(self) -> Path:
        """The adapter on disk."""

    @property
    def facts(self) -> Facts:
        """What it takes to open it again."""


@dataclass(frozen=True)
class Adapter:
    """One adapter on disk, and what is known before it is loaded."""

    name: str
    key: str  # what PEFT calls it, whose names are narrower than ours
    folder: Path
    config: PeftConfig
    mb: float
    chat: bool
    system: str | None
    rows: tuple[str, ...] = ()  # prompts that it is for, where they were given

    @property
    def of_run(self) -> bool:
        """Whether it lies in the folder of a run in a store, which knows its rows."""
        return (self.folder.parent / ROWS).exists()

    @property
    def mixes(self) -> bool:
        """Whether rows of one batch can have this adapter and others."""
        settings = vars(self.config)
        lora = self.config.peft_type == "LORA" and settings.get("bias") in (None, "none")
        return lora and not any(settings.get(option) for option in APART)


def is_run(one: Any) -> bool:
    """Tell a run from a name, a folder or a pair."""
    return hasattr(one, "adapter_dir")


def find(one: Any) -> tuple[str, Path, RunSpec | None, Facts]:
    """Find an adapter.

    Parameters
    ----------
    one : Run, str or path
        A run, an adapter folder, or the id or name of a run in the store.

    Returns
    -------
    tuple
        Its name, its folder, and the spec and facts of its run as far as they are known.

    Raises
    ------
    StoreError
        If there is no such run.
    """
    if is_run(one):
        return one.spec.name or one.id, one.adapter_dir, one.spec, one.facts
    folder = Path(one).expanduser()
    if folder.is_dir():
        spec = folder / "spec.yaml"
        name = folder.parent.name if folder.name == "adapter" else folder.name
        return name, folder, RunSpec.from_yaml(spec.read_text(encoding="utf-8")) if spec.is_file() else None, Facts()
    record = Store().get(str(one))
    return record.name or record.id, record.folder / "adapter", RunSpec.from_yaml(record.spec_yaml), record.facts


def inspect(name: str, folder: Path, spec: RunSpec | None, base: Mapping[str, Any]) -> tuple[PeftConfig, float]:
    """Read an adapter's settings and the sizes of its tensors.

    Parameters
    ----------
    name : str
        What to call it in messages.
    folder : Path
        Where it is.
    spec : RunSpec, optional
        Of its run.
    base : mapping
        The base's parameters by their names.

    Returns
    -------
    tuple of PeftConfig and float
        Its settings, and the MB it takes in float32.

    Raises
    ------
    MethodError
        If it brings weights of the base that differ from these, which loading would write over.
    ModelError
        If it cannot be read.
    """
    from peft import PeftConfig
    from safetensors import SafetensorError, safe_open

    from peft_nb.methods import REGISTRY
    from peft_nb.system.resources import MB

    if spec:
        REGISTRY[spec.method].config_class()  # makes PEFT know a tuner of ours
    try:
        config = PeftConfig.from_pretrained(str(folder))
        with safe_open(str(folder / "adapter_model.safetensors"), "pt") as file:
            sizes = {key: math.prod(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            theirs = {key: base[_of_base(key)] for key in sizes if _of_base(key) in base}
            same = {key for key, weight in theirs.items() if adapter_weights.equal(file.get_tensor(key), weight)}
    except (OSError, SafetensorError, TypeError, ValueError, KeyError) as error:
        raise ModelError(f"{name}: {folder} holds no adapter that can be read: {error}") from error
    own = tuple(getattr(config, "modules_to_save", None) or ())
    for weight in map(_of_base, theirs.keys() - same):
        if not any(f".{part}." in f".{weight}" for part in own):
            raise MethodError(
                f"{name} brings {weight}, a weight of the base itself, which all adapters share; merge it into a model "
                "of its own, or save it without (save_embedding_layers=False, bias='none')"
            )
    return config, sum(sizes.values()) * 4 / MB


def _of_base(key: str) -> str:
    return key.removeprefix("base_model.model.")

"""The model of a run: its base found and loaded, and the task's head on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from peft_nb.data.sources import IN_MEMORY
from peft_nb.errors import ModelError
from peft_nb.events import Event, Notice, Preparing
from peft_nb.methods import REGISTRY
from peft_nb.models import ALIASES
from peft_nb.models.live import changes, restored
from peft_nb.models.load import Base, load
from peft_nb.models.resolve import ModelSource, resolve
from peft_nb.runs.context import Inputs
from peft_nb.spec import RunSpec
from peft_nb.store import Facts
from peft_nb.system import adapter_weights, resources
from peft_nb.tasks import TASKS

if TYPE_CHECKING:
    from peft import PeftModel


def find(spec: RunSpec, inputs: Inputs) -> ModelSource:
    """Say where the base of a run is; imports no PyTorch.

    Parameters
    ----------
    spec : RunSpec
        Which base.
    inputs : Inputs
        What was passed instead of its name.

    Returns
    -------
    ModelSource
        Not loaded yet.

    Raises
    ------
    ModelError
        When there is no such model, or it was a live one that is not at hand.
    """
    if spec.model == IN_MEMORY and inputs.model is None:
        raise ModelError(
            "the run was started on a model in the notebook's memory; "
            "pass it again: peft_nb.load(id, model=(model, tokenizer))"
        )
    return resolve(spec.model if inputs.model is None else inputs.model, spec.revision, inputs.namespace)


def load_base(
    spec: RunSpec, source: ModelSource, facts: Facts, publish: Callable[[Event], None], adapter: Path | None = None
) -> Base:
    """Load the base of a run, once a process and shared between runs.

    Parameters
    ----------
    spec : RunSpec
        How it is held.
    source : ModelSource
        Where it is.
    facts : Facts
        What it was computed in before: a run goes on in what it began with.
    publish : callable
        Takes each event.
    adapter : Path, optional
        Folder of the run's adapter, if there is one: what it holds of a live pair is put back.

    Returns
    -------
    Base
        Frozen.
    """
    from peft_nb.training.probe import fastest_dtype

    device, dtype = resources.device(spec.device), facts.dtype or spec.dtype
    publish(Preparing(f"loading {spec.model}"))
    base = load(
        source,
        dtype=dtype if dtype != "auto" else lambda config: fastest_dtype(config, device),
        quantization=REGISTRY[spec.method].quantization(spec),  # type: ignore[arg-type]
        device=device,
        kind=TASKS[spec.task].base,
        progress=lambda fraction, what: publish(Preparing(f"{what} ({fraction:.0%})")),
    )
    for note in base.notes:
        publish(Notice(note))
    return restored(base, adapter) if source.pair and adapter else base


def adapted(spec: RunSpec, base: Base, facts: Facts, folder: str) -> PeftModel:
    """Put a saved adapter on its base, in evaluation mode."""
    REGISTRY[spec.method].config_class()  # makes PEFT know a tuner of ours
    model, _ = TASKS[spec.task].build(base, facts.task)
    return adapter_weights.load(model, folder)


def untrained(base: Base, adapted: PeftModel) -> str:
    """Say which new tokens of a live pair the adapter does not train, or nothing."""
    return changes(adapted, base.tokenizer, public_name(base.source)).warning if base.source.pair else ""


def public_name(source: ModelSource) -> str:
    """What a saved adapter calls its base: a name that others can use, where there is one."""
    if source.name in ALIASES:
        return ALIASES[source.name].public_name
    known_as = source.pair[0].name_or_path if source.pair else ""
    return source.repo or known_as or str(source.path or source.name)

"""What a run will take: memory from the shapes of its tensors, time from one layer that is trained for a moment.

No weight is read and nothing large is allocated: the base and its adapter are built on the meta device, where a
tensor is a shape without memory, and the rows are tokenised, or some hundreds of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from peft_nb.data import table as tables
from peft_nb.data.table import Table
from peft_nb.errors import ForecastError, PeftNbError
from peft_nb.events import Progress, silent
from peft_nb.methods import REGISTRY, complete
from peft_nb.models.meta import load_meta
from peft_nb.models.quiet import first_line, quiet
from peft_nb.models.resolve import ModelSource, resolve
from peft_nb.planning import memory
from peft_nb.planning.forecast import Forecast
from peft_nb.planning.plan import Plan
from peft_nb.spec import RunSpec
from peft_nb.system import resources
from peft_nb.system.lazy import import_training
from peft_nb.tasks import TASKS, Facts, inspect, proposed

MOST = 3  # fixes that are named


def estimate(
    spec: RunSpec,
    *,
    data: Any = None,
    model: Any = None,
    namespace: Mapping[str, Any] | None = None,
    room_mb: float | None = None,
    progress: Progress = silent,
) -> Forecast:
    """Estimate memory and time of a run on this machine; on a GPU its memory alone.

    Parameters
    ----------
    spec : RunSpec
        What to do.
    data, model : object, optional
        What is passed instead of a name: a table, a ``(model, tokenizer)`` pair.
    namespace : mapping, optional
        The notebook's variables.
    room_mb : float, optional
        Memory of the device that the process can have, in MB (10^6 bytes); by default what it has and what is free.
    progress : callable, optional
        Told how far it is.

    Returns
    -------
    Forecast
        Memory, seconds, whether it fits, and what would make it fit.

    Raises
    ------
    DataError, ModelError, MethodError
        What would keep the run itself from starting.
    ForecastError
        It would train on neither CPU nor CUDA, or no single layer of its model or method can be benchmarked.
    """
    table = tables.read(spec, data, namespace=namespace)
    spec = proposed(spec, table.layout)
    source = resolve(spec.model if model is None else model, spec.revision, namespace)
    with quiet():
        return foresee(spec, source, table, inspect(spec, table), room_mb, progress)


def foresee(
    spec: RunSpec,
    source: ModelSource,
    table: Table,
    facts: Facts,
    room_mb: float | None = None,
    progress: Progress = silent,
) -> Forecast:
    """Estimate a run whose model and rows have been found; parameters and errors as for :func:`estimate`."""
    spec = complete(spec)
    import_training(progress)
    import peft_nb.training.trainer  # noqa: F401  (the memory of what it imports counts as the process's own)
    from peft_nb.training.draws import OwnDraws
    from peft_nb.training.probe import fastest_dtype

    if (device := resources.device(spec.device)) not in ("cpu", "cuda"):
        raise ForecastError(f"device: there are no estimates for {device}; set device to cpu")
    with OwnDraws(spec.seed):
        progress(0.6, "reading the model's configuration")
        base = load_meta(
            source,
            dtype=(lambda config: fastest_dtype(config, device)) if spec.dtype == "auto" else spec.dtype,
            quantization=REGISTRY[spec.method].quantization(spec),  # type: ignore[arg-type]
            kind=TASKS[spec.task].base,
            progress=progress,
        )
        live = sum(one.nbytes for one in source.pair[0].parameters()) if source.pair else 0
        process = max(0.0, (memory.process(device) - live) / resources.MB)  # which gives back what was freed
        here = resources.device_memory_mb(device)
        room = here + resources.device_available_mb(device) if room_mb is None else room_mb
        progress(0.8, "benchmarking one layer")
        known = dict(facts)  # a shape of the base may bound them; the run itself finds that out anew
        TASKS[spec.task].limit(base, spec, known)
    plan = Plan(spec, base, table, known, room, process, device=device)
    try:
        forecast = plan.forecast()
        return replace(forecast, fixes=tuple(_fixes(plan))) if forecast.tight else forecast
    except PeftNbError:
        raise
    except Exception as error:  # an unusual model may train well and yet not be taken apart into layers
        raise ForecastError(f"no estimate for this architecture: {first_line(error)}") from error


def _fixes(plan: Plan) -> Iterable[tuple[str, float]]:
    """Settings that fit, from those that change least of what is learned; each first alone, then all so far."""
    spec, together = plan.spec, dict[str, Any]()
    named, least_mb = set[str](), plan.forecast().memory_mb
    for setting in _changes(plan):
        if named.issuperset(setting):  # a larger value fits
            continue
        for changes in (setting, together | setting) if together else (setting,):
            other = plan.under(spec.model_copy(update=changes)).forecast()
            if not other.tight:
                named |= setting.keys()
                yield ", ".join(f"{name}: {str(value).lower()}" for name, value in changes.items()), other.memory_mb
                break
        else:
            if other.memory_mb < least_mb:
                least_mb, together = other.memory_mb, together | setting
        if len(named) == MOST:
            return


def _changes(plan: Plan) -> Iterable[dict[str, Any]]:
    spec, budget = plan.spec, plan.work.budget
    if not spec.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    for tokens in (1024, 512, 256):
        if tokens < budget:
            yield {"token_budget": tokens}
    yield from TASKS[spec.task].lighter(spec)
    if plan.base.quantization == "none" and "4bit" in REGISTRY[spec.method].quantizations and not plan.base.source.pair:
        yield {"quantization": "4bit"}
    for length in (512, 256, 128):
        if length < plan.work.longest:
            yield {"max_length": length}
    for r in (8, 4):
        if spec.r and r < spec.r:
            yield {"r": r}

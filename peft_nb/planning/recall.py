"""Estimates of earlier runs, for those that do the same on the same machine: what is left to look at is the memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from peft_nb.data.table import Table
from peft_nb.models.resolve import ModelSource
from peft_nb.planning import estimate
from peft_nb.planning.forecast import Forecast
from peft_nb.spec import RunSpec
from peft_nb.system import known, resources
from peft_nb.system.resources import MB

AS_FREE = 0.8  # of the memory that was free then
IRRELEVANT = (
    *("name", "judge", "benchmarks", "accept", "score", "regression", "logging_steps", "save_steps", "report_to"),
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio", "weight_decay"),
)


def foresee(spec: RunSpec, source: ModelSource, table: Table, facts: Mapping[str, Any], before: float) -> Forecast:
    """Estimate a run as :func:`peft_nb.planning.estimate.foresee` does, or as it did within the last day.

    Parameters
    ----------
    spec, source, table, facts
        As of :func:`peft_nb.planning.estimate.foresee`.
    before : float
        Bytes of this process, see :func:`peft_nb.planning.memory.process`.

    Returns
    -------
    Forecast
        With the memory that the process has and can have now. One that is tight is always made anew.

    Raises
    ------
    DataError, ModelError, MethodError, ForecastError
        As of :func:`peft_nb.planning.estimate.foresee`.
    """
    process, free = before / MB, resources.memory_available_mb()
    about = _about(spec, source, table)
    found = known.recall("forecast", about, days=1) if about else None
    if found and free >= AS_FREE * found["free"]:  # the free memory bounds a micro-batch
        forecast = Forecast(**found["forecast"])
        room = resources.process_memory_mb() + free
        forecast = replace(forecast, process_mb=process + forecast.process_mb, room_mb=room)
        if not forecast.tight:
            return forecast
    forecast = estimate.foresee(spec, source, table, dict(facts))
    if about and not forecast.tight:
        kept = replace(forecast, process_mb=forecast.process_mb - process)
        known.keep("forecast", about, {"free": free, "forecast": asdict(kept)})
    return forecast


def _about(spec: RunSpec, source: ModelSource, table: Table) -> dict[str, Any]:
    """All that an estimate depends on; nothing for a model that is not a folder, whose shapes may change unseen."""
    if source.pair or not source.path or not (config := source.path / "config.json").is_file():
        return {}
    settings = {name: value for name, value in spec.to_dict().items() if name not in IRRELEVANT}
    return {
        "machine": known.machine(),
        "spec": settings,
        "config": config.read_text(encoding="utf-8"),
        "rows": [table.fingerprint, table.eval_fingerprint],
    }

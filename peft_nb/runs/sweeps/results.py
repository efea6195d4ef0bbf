"""What came of a sweep: its trials as a table, the best of them, and those that none other beats in everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peft_nb.errors import RunError, nearest
from peft_nb.metrics import METRICS, comparable
from peft_nb.spec.sweep import SweepSpec
from peft_nb.store import SweepRecord, Trial

if TYPE_CHECKING:
    import pandas

MEASURED = ("eval_loss", "score", "accuracy", "forgetting", "adapter_mb", "latency_ms", "trainable_parameters")
"""Metrics that are shown of trials where they were measured, beside those that are minimized."""


def metrics(spec: SweepSpec, trials: Sequence[Trial]) -> list[str]:
    """Name the metrics to show of trials: those minimized, then those that any of them has."""
    known = [name for name in MEASURED if any(one.metrics.get(name) is not None for one in trials)]
    return list(dict.fromkeys([*spec.minimize, *known]))


def number(trial: Trial, name: str) -> float | None:
    """Give a number of a trial: a varied field, a metric, its duration in seconds, or None where it has none.

    The eval loss of one that was stopped is the last that was measured.
    """
    found: Any = trial.values.get(name)
    if name == "seconds":
        found = trial.seconds
    elif name == "eval_loss" and trial.state != "finished":
        found = trial.losses[-1][1] if trial.losses else None
    elif name in METRICS:
        found = trial.metrics.get(name)
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def table(spec: SweepSpec, record: SweepRecord) -> pandas.DataFrame:
    """One row a trial: what was varied, how it ended, what was measured, and its run."""
    import pandas

    shown = metrics(spec, record.trials)
    rows = [
        {
            "trial": trial.number,
            **{name: trial.values.get(name) for name in spec.space},
            "state": trial.state,
            **{name: number(trial, name) for name in shown},
            "seconds": round(trial.seconds, 1),
            "run": trial.run,
            "reason": trial.reason,
        }
        for trial in record.trials
    ]
    columns = ["trial", *spec.space, "state", *shown, "seconds", "run", "reason"]
    found = pandas.DataFrame(rows, columns=columns).set_index("trial")
    for name in spec.space:
        given = [one.values.get(name) for one in record.trials]
        if any(isinstance(one, int) for one in given) and all(one is None or type(one) is int for one in given):
            found[name] = found[name].astype("Int64")  # which stays whole where some are missing
    return found


def best(record: SweepRecord, by: str) -> Trial:
    """Choose the finished trial that is best by a metric; of equal ones the first.

    Raises
    ------
    RunError
        If there is no such metric, or no trial that finished has it.
    """
    known = comparable()
    if by not in known:
        raise RunError(f"{by} is no metric that ranks trials{nearest(by, known) or '; such as eval_loss'}")
    measured = [one for one in finished(record) if one.metrics.get(by) is not None]
    if not measured:
        why = f"none has {by}" if finished(record) else "none has finished"
        raise RunError(f"sweep {record.id} has no best trial: {why}")
    return known[by].best(measured, key=lambda one: one.metrics[by])


def front(record: SweepRecord, by: Sequence[str]) -> list[Trial]:
    """Choose the finished trials than which none other is as good in all metrics and better in one, by the first.

    Raises
    ------
    RunError
        If something named is no metric that ranks trials.
    """
    known = comparable()
    if wrong := [name for name in by if name not in known]:
        raise RunError(f"{wrong[0]} is no metric that ranks trials{nearest(wrong[0], known) or '; such as eval_loss'}")
    signs = [1 if known[name].better == "low" else -1 for name in by]
    placed = [
        ([sign * one.metrics[name] for name, sign in zip(by, signs, strict=True)], one)
        for one in finished(record)
        if all(one.metrics.get(name) is not None for name in by)
    ]
    chosen = [(place, one) for place, one in placed if not any(_beats(other, place) for other, _ in placed)]
    return [one for _, one in sorted(chosen, key=lambda both: both[0])]


def _beats(place: Sequence[float], other: Sequence[float]) -> bool:
    """Whether numbers are nowhere higher than others, and lower somewhere."""
    return all(a <= b for a, b in zip(place, other, strict=True)) and tuple(place) != tuple(other)


def so_far(record: SweepRecord, by: str) -> list[tuple[float, float]]:
    """Give the best value of a metric over time: after so many seconds of work, each time it got better."""
    worked, found = 0.0, list[tuple[float, float]]()
    for trial in record.trials:
        worked += trial.seconds
        value = trial.metrics.get(by) if trial in finished(record) else None
        if value is not None and (not found or comparable()[by].best(value, found[-1][1]) != found[-1][1]):
            found.append((worked, value))
    return found


def finished(record: SweepRecord) -> list[Trial]:
    """The trials that came to their end and whose runs are there."""
    return [one for one in record.trials if one.state == "finished" and one.run]

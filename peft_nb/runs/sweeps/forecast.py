"""What a whole sweep will take, told before its first trial: the time of all trials, the memory of the largest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from peft_nb.data.table import Table
from peft_nb.errors import PeftNbError
from peft_nb.methods.registry import FIELDS, REGISTRY, complete
from peft_nb.models.quiet import first_line, quiet
from peft_nb.runs import model
from peft_nb.runs.context import Inputs
from peft_nb.spec import RunSpec
from peft_nb.spec.place import Place
from peft_nb.spec.sweep import Range, SweepSpec
from peft_nb.store import Facts


@dataclass(frozen=True)
class Ahead:
    """What a sweep is expected to take.

    Attributes
    ----------
    trials : float
        How many there are at most; infinite where only the time bounds them.
    seconds : float or None
        Of training and its evaluations in all trials, each to its last step; None where that is not foreseen.
    memory_mb, room_mb : float or None
        Peak of the largest trial, and what can be had.
    untold : tuple of str
        Why some trials are not foreseen, such as that they will be refused.
    """

    trials: float
    seconds: float | None = None
    memory_mb: float | None = None
    room_mb: float | None = None
    untold: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON could hold it."""
        told = {"seconds": self.seconds, "memory_mb": self.memory_mb, "room_mb": self.room_mb, "untold": self.untold}
        return {"trials": None if math.isinf(self.trials) else int(self.trials), **told}


def foresee(spec: SweepSpec, table: Table, facts: Facts, inputs: Inputs) -> Ahead:
    """Estimate the largest trial of each method; downloads nothing but what the first trial would.

    Parameters
    ----------
    spec : SweepSpec
        What is searched.
    table : Table
        The rows.
    facts : Facts
        What they say.
    inputs : Inputs
        What was passed in place of names.

    Returns
    -------
    Ahead
        Without numbers where nothing can be estimated.
    """
    from peft_nb.planning import memory, recall

    forecasts, untold = [], list[str]()
    for largest in map(complete, corners(spec, *sizes(table))):
        try:
            source = model.find(largest, inputs)
            with quiet():
                forecasts.append(recall.foresee(largest, source, table, facts.task, memory.process()))
        except PeftNbError as error:
            untold.append(f"{largest.method}: {first_line(error)}")
    if not forecasts:
        return Ahead(spec.most, untold=tuple(untold))
    times = [one.seconds + (one.evaluation_seconds or 0.0) for one in forecasts if one.seconds is not None]
    greatest = max(forecasts, key=lambda one: one.memory_mb)
    seconds = spec.most * fmean(times) if times else None
    if spec.minutes:
        seconds = min(seconds or math.inf, 60 * spec.minutes)
    return Ahead(spec.most, seconds, greatest.memory_mb, greatest.room_mb, tuple(untold))


def notes(spec: SweepSpec, place: Place) -> Iterator[str]:
    """Say what a reader would not expect of the trials."""
    method = spec.space.get("method")
    for name in [] if method is None else method.written:
        for field in spec.space.keys() & FIELDS.keys() - REGISTRY[name].fields.keys():
            yield f"{field}: {name} has {FIELDS[field]}; its trials leave it out"
    if spec.search != "grid" and not spec.halves:
        why = "a trial with a high eval loss may be the best in another metric"
        yield f"no trial is stopped early, since minimize is {', '.join(spec.minimize)}: {why}"
    if spec.parallel > 1 and place.near:
        yield f"{spec.parallel} trials at once on the same cores or GPU slow each other"


def sizes(table: Table) -> tuple[int, int | None]:
    """How many training rows there are, and rows of an evaluation set of its own."""
    return len(table.rows), None if table.eval_rows is None else len(table.eval_rows)


def corners(spec: SweepSpec, rows: int, eval_rows: int | None = None) -> Iterator[RunSpec]:
    """Of each method the trial that needs most: numbers at their highest, of other values the first."""
    method = spec.space.get("method")
    for name in [spec.run.method] if method is None else method.written:
        values: dict[str, Any] = {"method": name}
        for field, dimension in spec.space.items():
            if field == "method" or (field in FIELDS and field not in REGISTRY[name].fields):
                continue
            if isinstance(dimension, Range):
                values[field] = dimension.high
            else:
                numbers = [one for one in dimension.values if isinstance(one, int | float)]
                values[field] = max(numbers) if numbers else dimension.values[0]
        yield spec.trial(values, rows, eval_rows)

"""A sweep as it is written: one run of which some fields take several values, and how these are searched."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator

from peft_nb.errors import SpecError, nearest
from peft_nb.metrics import comparable
from peft_nb.spec import notation
from peft_nb.spec.field_info import FieldInfo, show, suggest
from peft_nb.spec.fields import Number, Whole, Words, explain, field, info
from peft_nb.spec.runspec import ALIASES, RunSpec

TRIALS = 12  # where neither their number nor the minutes are given
EVALUATIONS = (9, 3)  # of a trial that may be stopped early, where the spec does not say how often
FORWARD = 1 / 3  # of what a row costs in training, that it costs in an evaluation
SECTIONS = ("method", "training", "preferences")  # whose fields leave the rows and the measures as they are
EXAMPLE = "{learning_rate: [1e-4, 3e-4], r: {low: 4, high: 64, log: true}}"


@dataclass(frozen=True)
class Values:
    """A field that takes one of a list of values."""

    values: tuple[Any, ...]

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.values)

    @property
    def written(self) -> list[Any]:
        """As it stands in YAML."""
        return list(self.values)

    def holds(self, value: Any) -> bool:
        """Whether the field can take a value."""
        return value in self.values


@dataclass(frozen=True)
class Range:
    """A field that takes any number between two bounds, both included; whole ones where the field does."""

    low: float
    high: float
    log: bool
    whole: bool

    @property
    def size(self) -> float:
        """How many values there are."""
        return self.high - self.low + 1 if self.whole else math.inf

    @property
    def written(self) -> dict[str, Any]:
        """As it stands in YAML."""
        return {"low": self.low, "high": self.high} | ({"log": True} if self.log else {})

    def holds(self, value: Any) -> bool:
        """Whether the field can take a value."""
        return isinstance(value, int | float) and self.low <= value <= self.high


def _space(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"{show(value)} names no fields with several values each; write sweep: {EXAMPLE}")
    return dict(value)


class SweepSpec(BaseModel):
    """A sweep, described: the run that its trials have in common, and what is varied. Immutable.

    Parameters
    ----------
    **fields
        Those of :meth:`describe`, of which ``sweep`` is required, and any of :class:`RunSpec` for all trials alike.

    Raises
    ------
    SpecError
        With one line for every field that is unknown, missing, out of bounds or at odds with another.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    sweep: Annotated[dict[str, Any], BeforeValidator(_space)] = field(..., "sweep")
    """Fields that take several values: a list, or numbers between two bounds, as in {learning_rate: [1e-4, 3e-4],
    r: {low: 4, high: 64, log: true}, method: [lora, ia3]}; a cell that has it runs trials instead of one run."""
    trials: Whole | None = field(None, "sweep", "trials", ge=1, le=100_000)
    """Trials to run; null takes 12, every combination where search is grid, and with minutes as many as they allow."""
    minutes: Number | None = field(None, "sweep", "minutes", gt=0, le=1_000_000)
    """Time after which no further trial begins and the one at work is stopped; null sets no limit."""
    search: Literal["tpe", "random", "grid"] = field("tpe", "sweep")
    """How values are chosen: tpe learns from earlier trials, random does not, grid runs every combination of lists."""
    minimize: Words = field(["eval_loss"], "sweep")
    """Metric that the best trial has the lowest of, or several, such as [eval_loss, forgetting, adapter_mb]. With
    eval_loss alone, poor trials stop early (successive halving) unless search is grid."""
    parallel: Whole = field(1, "sweep", "trials", ge=1, le=10_000)
    """Trials at work at once; on one CPU or GPU they slow each other."""

    _run: RunSpec
    _space: dict[str, Values | Range]

    def __init__(self, /, **fields: Any) -> None:
        own = {name: fields.pop(name) for name in SweepSpec.model_fields if name in fields}
        problems: list[str] = []
        try:
            super().__init__(**own)
        except ValidationError as refused:
            raise SpecError(explain(one, SweepSpec) for one in refused.errors(include_url=False)) from None
        run = RunSpec(**fields)
        given = {ALIASES.get(name, name) for name in fields}
        space: dict[str, Values | Range] = {}
        for name, values in self.sweep.items():
            name = ALIASES.get(name, name)
            try:
                if name in space or name in given:
                    raise SpecError([f"{name}: is given twice, for all trials and as what they vary; keep one"])
                space[name] = _dimension(name, values, run)
            except SpecError as error:
                problems += [f"sweep: {problem}" for problem in error.problems]
        problems += _at_odds(self, space, run)
        if problems:
            raise SpecError(problems)
        # In one order always: the method first, for it decides which other fields there are.
        order = sorted(space, key=lambda name: (name != "method", [*RunSpec.model_fields].index(name)))
        super().__setattr__("_run", run)
        super().__setattr__("_space", {name: space[name] for name in order})

    @field_validator("minimize")
    @classmethod
    def _can_be_lowest(cls, names: list[str]) -> list[str]:
        known = comparable()
        if not names or len({*names}) < len(names):
            raise ValueError(f"{show(names)} does not name metrics once each; write eval_loss, or a list of metrics")
        for name in names:
            if name not in known:
                fix = nearest(name, known) or f"; known are {', '.join(known)}"
                raise ValueError(f"no metric is called {show(name)}{fix}")
            if known[name].better == "high":
                fix = f"search by eval_loss and take sweep.best(by={name!r})"
                raise ValueError(f"{name} is better when it is high; {fix}")
        return names

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise SpecError([f"{name}: a sweep never changes; describe another one"])

    @classmethod
    def describe(cls) -> list[FieldInfo]:
        """Describe every field beside those of a run, in order."""
        return [info(name, field) for name, field in cls.model_fields.items()]

    @property
    def run(self) -> RunSpec:
        """What all trials have in common."""
        return self._run

    @property
    def space(self) -> dict[str, Values | Range]:
        """What each varied field can be, the method first."""
        return self._space

    @property
    def halves(self) -> bool:
        """Whether poor trials are stopped early."""
        return self.search != "grid" and self.minimize == ["eval_loss"]

    @property
    def size(self) -> float:
        """How many combinations there are, as far as every method takes every field."""
        return math.prod(dimension.size for dimension in self.space.values())

    @property
    def most(self) -> float:
        """How many trials there are at most."""
        wanted = self.trials or (math.inf if self.minutes or self.search == "grid" else TRIALS)
        return min(wanted, self.size)

    def trial(self, values: Mapping[str, Any], rows: int = 0, eval_rows: int | None = None) -> RunSpec:
        """Describe one trial; it has no name, for under a name every trial would become a version of it.

        Parameters
        ----------
        values : mapping
            Of the fields that are varied.
        rows, eval_rows : int, optional
            How many training rows there are, and rows of an evaluation set of its own. Where poor trials stop early and
            ``eval_steps`` is not given, it is then such that there are nine evaluations, or three where nine would take
            more than a quarter of the time of training.

        Returns
        -------
        RunSpec
            An ordinary run.
        """
        spec = RunSpec(**{**self.run.changed(), **values, "name": None})
        if spec.eval_steps or not rows or not self.halves:
            return spec
        held_out = spec.eval_fraction * rows if eval_rows is None else eval_rows
        batch = spec.effective_batch_size
        learned = rows if eval_rows is not None else rows - held_out
        steps = spec.max_steps or spec.epochs * math.ceil(learned / batch)
        many, few = EVALUATIONS
        dear = many * held_out * FORWARD > steps * batch / 4
        return RunSpec(**{**spec.changed(), "eval_steps": max(1, int(steps // (few if dear else many)))})

    def changed(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, those of the sweep first."""
        fields = SweepSpec.model_fields
        own = {name: value for name, value in self.model_dump().items() if value != fields[name].default}
        return {**own, "sweep": {name: one.written for name, one in self.space.items()}, **self.run.changed()}

    def to_yaml(self) -> str:
        """Write the changed fields as YAML."""
        return notation.write_yaml(self.changed())

    @classmethod
    def from_yaml(cls, text: str) -> SweepSpec:
        """Read a sweep from YAML, as :meth:`to_yaml` writes it."""
        return cls(**notation.read_yaml(text))


OPTIONS = tuple(SweepSpec.model_fields)


def described(fields: Mapping[str, Any]) -> SweepSpec | None:
    """Read fields that may be a sweep's or a run's.

    Parameters
    ----------
    fields : mapping
        As a cell, flags or a file give them, not yet checked.

    Returns
    -------
    SweepSpec or None
        None where nothing is varied.

    Raises
    ------
    SpecError
        What is wrong with a sweep; also options of a sweep where nothing is varied.
    """
    if "sweep" in fields:
        return SweepSpec(**fields)
    if alone := [name for name in OPTIONS if name in fields]:
        fix = f"add sweep: {EXAMPLE}, or leave it out"
        raise SpecError(f"{name}: belongs to a sweep, and no field takes several values here; {fix}" for name in alone)
    return None


def key(values: Mapping[str, Any]) -> str:
    """Tell combinations of values apart."""
    return json.dumps(values, sort_keys=True)


def _dimension(name: str, given: Any, run: RunSpec) -> Values | Range:
    """Read what one field can be, by the field's own rules."""
    known = {one.name: one for one in RunSpec.describe()}
    if name not in known:
        raise SpecError([f"{name}: no such field{suggest(name, [*known, *ALIASES])}"])
    if known[name].section not in SECTIONS:
        fix = "a sweep varies fields of the method and of training"
        raise SpecError([f"{name}: trials that differ in it cannot be compared; {fix}"])
    if name == "seed" and run.eval_data is None:
        raise SpecError(["seed: chooses the evaluation set too, so trials could not be compared; give eval_data"])

    def read(value: Any) -> Any:
        return getattr(RunSpec(**{**run.changed(), name: value}), name)

    if isinstance(given, list | tuple):
        values = [read(value) for value in given]
        if len(values) < 2 or len({key({name: value}) for value in values}) < len(values):
            raise SpecError([f"{name}: {show(given)} is no list of two or more different values"])
        return Values(tuple(values))
    if isinstance(given, Mapping) and known[name].type in ("integer", "number"):
        return _range(name, given, read, whole=known[name].type == "integer")
    fix = "write a list" + (", or {low: 4, high: 64}" if known[name].type in ("integer", "number") else "")
    raise SpecError([f"{name}: {show(given)} is one value; {fix}"])


def _range(name: str, given: Mapping[str, Any], read: Callable[[Any], Any], *, whole: bool) -> Range:
    if given.keys() - {"low", "high", "log"} or not {"low", "high"} <= given.keys():
        raise SpecError([f"{name}: {show(dict(given))} is no range; write {{low: 4, high: 64}}, with log: true or not"])
    low, high, log = read(given["low"]), read(given["high"]), str(given.get("log", False)).lower()
    if log not in ("true", "false"):
        raise SpecError([f"{name}: log: {show(given['log'])} is neither true nor false"])
    if low is None or high is None or low >= high:
        raise SpecError([f"{name}: low ({low}) has to be below high ({high})"])
    if log == "true" and low <= 0:
        raise SpecError([f"{name}: low ({low}) has to be above 0 where log is true"])
    return Range(low, high, log == "true", whole)


def _at_odds(spec: SweepSpec, space: Mapping[str, Values | Range], run: RunSpec) -> list[str]:
    """What does not fit together."""
    problems = []
    known = {one.name: one for one in RunSpec.describe()}
    if spec.search == "grid":
        fix = "write the values as a list, or search: tpe"
        problems += [f"search: grid runs lists alone; {n}: {fix}" for n, one in space.items() if isinstance(one, Range)]
    losses = [name for name in space if known[name].section == "preferences"]
    if losses and "eval_loss" in spec.minimize:
        why = "changes what the loss is, so eval losses cannot be compared; name other metrics in minimize"
        problems += [f"sweep: {name}: {why}" for name in losses]
    if not run.eval_fraction and run.eval_data is None and "eval_loss" in spec.minimize:
        problems.append("minimize: eval_loss needs an evaluation set; give eval_data or eval_fraction")
    return problems

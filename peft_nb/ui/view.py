"""What is known about a run at one moment, folded from its events one by one.

:func:`advance` is a pure function, so a live panel, a panel opened after a kernel restart and a test all
reach the same view from the same events.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING

from peft_nb.events import (
    ACTIVE,
    Checkpointed,
    Evaluated,
    Event,
    Mistaken,
    Notice,
    Planned,
    Preparing,
    Resumed,
    Sampled,
    Scored,
    Status,
    StatusChanged,
    StepLogged,
    TimeLeft,
    Transcribed,
)
from peft_nb.spec import RunSpec

if TYPE_CHECKING:
    import numpy

CURVE_POINTS = 240  # about one a pixel of the sparkline
NOTICES = 20
SAMPLES = 6  # answers kept to one prompt: the base's and the latest
RECENT = 10  # logged steps whose mean is the train loss that is shown: one batch alone is too noisy
SMOOTHING = 0.3  # weight of the newest step in the shown speed, which jumps with the length of the rows

Points = list[tuple[int, float]]


class Curve:
    """A curve that only grows at its end: every value is kept, and drawn are some of them.

    A curve never changes; one that goes on from it shares its memory, so that adding a value costs the same whatever
    came before.
    """

    def __init__(self, steps: array[int] | None = None, values: array[float] | None = None, length: int = 0) -> None:
        self._steps = array("q") if steps is None else steps
        self._values = array("d") if values is None else values
        self._length = length

    def __len__(self) -> int:
        return self._length

    def add(self, step: int, value: float) -> Curve:
        """Append a value; one that is not finite leaves the curve as it is."""
        if not math.isfinite(value):
            return self
        steps, values = self._steps, self._values
        if len(steps) > self._length:  # another curve has gone on from here
            steps, values = steps[: self._length], values[: self._length]
        steps.append(step)
        values.append(value)
        return Curve(steps, values, self._length + 1)

    def until(self, step: int) -> Curve:
        """Drop what came after a step."""
        return Curve(self._steps, self._values, bisect_right(self._steps, step, hi=self._length))

    def arrays(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        """All steps and all values."""
        import numpy

        # A slice is a copy: an array that lends its memory could not grow.
        steps, values = self._steps[: self._length], self._values[: self._length]
        return numpy.frombuffer(steps, dtype=numpy.int64), numpy.frombuffer(values, dtype=numpy.float64)

    def points(self, most: int = CURVE_POINTS) -> Points:
        """Some of its points, see :func:`thin`."""
        steps, values = self.arrays()
        kept = thin(steps, values, most)
        return list(zip(steps[kept].tolist(), values[kept].tolist(), strict=True))

    def smoothed(self, width: int) -> Curve:
        """Means of so many values up to each point; the first points have the mean of the first values."""
        import numpy

        if not self:
            return self
        steps, values = self.arrays()
        width = min(width, len(values))
        sums = numpy.concatenate([[0.0], values.cumsum()])
        means = (sums[width:] - sums[: len(sums) - width]) / width
        means = numpy.concatenate([numpy.full(width - 1, means[0]), means])
        return Curve(array("q", steps.tolist()), array("d", means.tolist()), len(values))

    def mean(self, newest: int) -> float:
        """Mean of its newest values; NaN while it is empty."""
        return fmean(self._values[max(0, self._length - newest) : self._length]) if self._length else math.nan

    @property
    def first(self) -> float:
        """Where it begins; in a long curve the mean of what falls into its first point. NaN while it is empty."""
        return fmean(self._values[: max(1, self._length // CURVE_POINTS)]) if self._length else math.nan

    @property
    def last(self) -> float:
        """Its newest value; NaN while it is empty."""
        return self._values[self._length - 1] if self._length else math.nan


def thin(steps: numpy.ndarray, values: numpy.ndarray, most: int) -> numpy.ndarray:
    """Choose points of a curve that look like all of them.

    MinMaxLTTB: of the lowest and highest points of every stretch, those that span the largest triangles (Van Der
    Donckt et al., 2023, arXiv:2305.00332).

    Parameters
    ----------
    steps, values : numpy.ndarray
        The curve; shape ``(points,)``, steps ascending.
    most : int
        How many points at most, 3 or more.

    Returns
    -------
    numpy.ndarray
        Their places, ascending; the first and the last are among them.
    """
    import numpy

    if len(steps) <= most:
        return numpy.arange(len(steps))
    from tsdownsample import MinMaxLTTBDownsampler

    # Its places are unsigned; together with signed ones numpy would make fractions of them.
    return MinMaxLTTBDownsampler().downsample(steps, values, n_out=most).astype(numpy.int64)


@dataclass(frozen=True)
class RunView:
    """Everything the panel and the summary show of one run.

    Losses are in nats per supervised token, memory in MB, times in seconds. ``start`` is the first step
    logged since training began or was resumed: the ETA is reckoned from there.
    """

    id: str = ""
    name: str = ""
    method: str = ""
    model: str = ""
    data: str = ""
    task: str = RunSpec.model_fields["task"].default
    memory_limit_mb: float | None = None
    status: Status = "created"
    reason: str = ""
    what: str = ""
    plan: Planned | None = None
    start: StepLogged | None = None
    latest: StepLogged | None = None
    resumed_at: int = 0
    checkpoint: int | None = None
    base_eval_loss: float | None = None
    eval_loss: float | None = None
    tokens_per_second: float = 0.0
    peak_memory_mb: float = 0.0
    losses: Curve = field(default_factory=Curve)
    evals: Curve = field(default_factory=Curve)
    speeds: Curve = field(default_factory=Curve)
    memories: Curve = field(default_factory=Curve)
    rates: Curve = field(default_factory=Curve)
    norms: Curve = field(default_factory=Curve)
    samples: tuple[Sampled, ...] = ()
    mistakes: tuple[Mistaken, ...] = ()
    clips: tuple[Transcribed, ...] = ()
    scores: Mapping[str, Curve] = field(default_factory=dict)  # by the key of the metric, such as accuracy
    notices: tuple[Notice, ...] = ()
    left_s: float | None = None  # as the latest event told it

    @property
    def active(self) -> bool:
        """Whether the run still works."""
        return self.status in ACTIVE

    @property
    def first_loss(self) -> float | None:
        """Train loss at the beginning; a mean over the first steps in a long run."""
        return self.losses.first if self.losses else None

    @property
    def train_loss(self) -> float | None:
        """Mean train loss of the latest steps."""
        return self.losses.mean(RECENT) if self.losses else None

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.latest.step if self.latest else self.resumed_at

    @property
    def total_steps(self) -> int:
        """Optimizer steps planned; 0 while the plan is not made."""
        return self.plan.total_steps if self.plan else 0

    @property
    def fraction(self) -> float:
        """Share of the steps done, between 0 and 1."""
        return min(self.step / self.total_steps, 1.0) if self.total_steps else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds left, as told or else at the pace of the steps; None while not known, and once the run has ended."""
        if not self.active or self.left_s is not None:
            return self.left_s if self.active else None
        if not (self.latest and self.start and self.total_steps):
            return None
        steps = self.latest.step - self.start.step
        # The first step is slower than the others, so it counts only while it is all there is.
        pace = (
            (self.latest.elapsed_s - self.start.elapsed_s) / steps
            if steps
            else self.latest.elapsed_s / max(self.latest.step, 1)
        )
        return pace * max(self.total_steps - self.step, 0)


def advance(view: RunView, event: Event) -> RunView:
    """Fold one event into a view.

    Parameters
    ----------
    view : RunView
        What was known before.
    event : Event
        What happened.

    Returns
    -------
    RunView
        What is known now.
    """
    match event:
        case StatusChanged("preparing"):
            # A run that is resumed begins anew where it was; its pace until then says nothing of the wait ahead.
            return replace(
                view, status="preparing", reason="", resumed_at=view.step, start=None, latest=None, left_s=None
            )
        case StatusChanged(status, reason):
            return replace(view, status=status, reason=reason, what="")
        case Preparing(what):
            return replace(view, what=what)
        case TimeLeft(seconds):
            return replace(view, left_s=seconds)
        case Notice():
            return view if event in view.notices else replace(view, notices=(*view.notices, event)[-NOTICES:])
        case Planned():
            # On a GPU the memory reported is the GPU's, which this process's limit says nothing about.
            limit = view.memory_limit_mb if event.device == "cpu" else None
            return replace(view, plan=event, memory_limit_mb=limit)
        case StepLogged():
            return _stepped(view, event)
        case Evaluated(step, eval_loss, _):
            base = eval_loss if step == 0 else view.base_eval_loss
            return replace(
                view, what="", base_eval_loss=base, eval_loss=eval_loss, evals=view.evals.add(step, eval_loss)
            )
        case Scored(step, metrics):
            scores = {name: view.scores.get(name, Curve()).add(step, value) for name, value in metrics.items()}
            return replace(view, scores={**view.scores, **scores})
        case Sampled():
            return replace(view, samples=_sampled(view.samples, event))
        case Mistaken():
            return replace(view, mistakes=(*view.mistakes, event))
        case Transcribed():
            return replace(view, clips=(*view.clips, event))
        case Checkpointed(step):
            return replace(view, checkpoint=step)
        case Resumed(step):
            kept = view.evals.until(step)
            return replace(
                view,
                resumed_at=step,
                start=None,
                latest=None,
                losses=view.losses.until(step),
                evals=kept,
                speeds=view.speeds.until(step),
                memories=view.memories.until(step),
                rates=view.rates.until(step),
                norms=view.norms.until(step),
                samples=tuple(one for one in view.samples if one.step <= step),
                scores={name: curve.until(step) for name, curve in view.scores.items()},
                eval_loss=kept.last if kept else None,
            )


def _sampled(samples: tuple[Sampled, ...], event: Sampled) -> tuple[Sampled, ...]:
    same = [one for one in samples if one.prompt == event.prompt]
    others = [one for one in samples if one.prompt != event.prompt]
    return (*others, *same[:1], *same[1:][2 - SAMPLES :], event)


def _stepped(view: RunView, event: StepLogged) -> RunView:
    before = view.tokens_per_second or event.tokens_per_second
    return replace(
        view,
        what="",
        start=view.start or event,
        latest=event,
        tokens_per_second=(1 - SMOOTHING) * before + SMOOTHING * event.tokens_per_second,
        peak_memory_mb=max(view.peak_memory_mb, event.memory_mb),
        losses=view.losses.add(event.step, event.loss),
        speeds=view.speeds.add(event.step, event.tokens_per_second),
        memories=view.memories.add(event.step, event.memory_mb),
        rates=view.rates.add(event.step, event.learning_rate),
        norms=view.norms.add(event.step, event.grad_norm),
    )


def replay(events: Iterable[Event], view: RunView | None = None) -> RunView:
    """Fold many events, such as those the store kept of a run.

    Parameters
    ----------
    events : iterable of Event
        In the order in which they happened.
    view : RunView, optional
        Where to begin; by default nothing is known.

    Returns
    -------
    RunView
        What is known after the last of them.
    """
    view = view or RunView()
    for event in events:
        view = advance(view, event)
    return view

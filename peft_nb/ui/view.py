"""What is known about a run at one moment, folded from its events one by one.

:func:`advance` is a pure function, so a live panel, a panel opened after a kernel restart and a test all
reach the same view from the same events.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from peft_nb.events import (
    ACTIVE,
    Checkpointed,
    Evaluated,
    Event,
    Notice,
    Planned,
    Preparing,
    Resumed,
    Status,
    StatusChanged,
    StepLogged,
)

CURVE_POINTS = 240  # about one a pixel of the sparkline
NOTICES = 20
SMOOTHING = 0.3  # weight of the newest step in the shown speed, which jumps with the length of the rows


@dataclass(frozen=True)
class Curve:
    """A curve of bounded size: when it is full, neighbouring points are merged into their mean.

    Each point is ``(step, value, how many values it is the mean of)``.
    """

    points: tuple[tuple[int, float, int], ...] = ()
    stride: int = 1

    def add(self, step: int, value: float) -> Curve:
        """Append a value; one that is not finite leaves the curve as it is."""
        if not math.isfinite(value):
            return self
        if self.points and self.points[-1][2] < self.stride:
            return replace(self, points=(*self.points[:-1], _mean(self.points[-1], (step, value, 1))))
        points = (*self.points, (step, value, 1))
        if len(points) <= CURVE_POINTS:
            return replace(self, points=points)
        halves = [_mean(*points[i : i + 2]) for i in range(0, len(points), 2)]
        return Curve(tuple(halves), 2 * self.stride)

    def until(self, step: int) -> Curve:
        """Drop what came after a step."""
        return replace(self, points=tuple(point for point in self.points if point[0] <= step))


def _mean(*points: tuple[int, float, int]) -> tuple[int, float, int]:
    weight = sum(n for _, _, n in points)
    return points[-1][0], sum(value * n for _, value, n in points) / weight, weight


@dataclass(frozen=True)
class RunView:
    """Everything the panel and the summary show of one run.

    Losses are in nats per supervised token, memory in MB, times in seconds. ``start`` is the first step
    logged since training began or was resumed: the ETA is reckoned from there.
    """

    id: str = ""
    method: str = ""
    model: str = ""
    data: str = ""
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
    notices: tuple[str, ...] = ()

    @property
    def active(self) -> bool:
        """Whether the run still works."""
        return self.status in ACTIVE

    @property
    def first_loss(self) -> float | None:
        """Training loss at the beginning; a mean over the first steps in a long run."""
        return self.losses.points[0][1] if self.losses.points else None

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
        """Seconds left at the pace so far; None while there is no pace."""
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
            return replace(view, status="preparing", reason="", resumed_at=view.step, start=None, latest=None)
        case StatusChanged(status, reason):
            return replace(view, status=status, reason=reason, what="")
        case Preparing(what):
            return replace(view, what=what)
        case Notice(text):
            return view if text in view.notices else replace(view, notices=(*view.notices, text)[-NOTICES:])
        case Planned():
            # On a GPU the memory reported is the GPU's, which this process's limit says nothing about.
            limit = view.memory_limit_mb if event.device == "cpu" else None
            return replace(view, plan=event, memory_limit_mb=limit)
        case StepLogged():
            return _stepped(view, event)
        case Evaluated(step, eval_loss):
            base = eval_loss if step == 0 else view.base_eval_loss
            return replace(
                view, what="", base_eval_loss=base, eval_loss=eval_loss, evals=view.evals.add(step, eval_loss)
            )
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
                eval_loss=kept.points[-1][1] if kept.points else None,
            )


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

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_nb.events import (
    Checkpointed,
    Evaluated,
    Event,
    Notice,
    Planned,
    Preparing,
    Resumed,
    StatusChanged,
    StepLogged,
)
from peft_nb.ui.view import CURVE_POINTS, NOTICES, Curve, RunView, replay

PLAN = Planned(100, 336, 60, 41234, 4_884_480, 139_400_064, "float32", "cpu", "padding-free")


def logged(step: int, loss: float = 1.0, **fields: float) -> StepLogged:
    known = {
        "epoch": step / 50,
        "learning_rate": 1e-4,
        "grad_norm": 1.0,
        "tokens_per_second": 100.0,
        "memory_mb": 2000.0,
        "elapsed_s": 3.0 + 2 * step,
    }
    return StepLogged(step, loss=loss, **(known | fields))


def test_a_run_from_first_word_to_last() -> None:
    events: list[Event] = [StatusChanged("preparing"), Preparing("loading the model")]
    assert replay(events).what == "loading the model"
    events += [
        PLAN,
        StatusChanged("training"),
        Evaluated(0, 3.5),
        logged(1, 3.6),
        logged(2, 3.2, memory_mb=1900.0),
    ]
    view = replay(events)
    assert (view.what, view.status, view.step, view.total_steps, view.fraction) == (
        "",
        "training",
        2,
        100,
        0.02,
    )
    assert (view.first_loss, view.latest and view.latest.loss, view.peak_memory_mb) == (3.6, 3.2, 2000)
    view = replay([Evaluated(2, 3.1), Checkpointed(2, "x"), StatusChanged("stopped", "interrupted")], view)
    assert (view.base_eval_loss, view.eval_loss, view.checkpoint) == (3.5, 3.1, 2)
    assert (view.active, view.status, view.reason) == (False, "stopped", "interrupted")


def test_eta_leaves_out_the_slow_first_step() -> None:
    assert replay([PLAN]).eta_s is None
    assert replay([PLAN, logged(1, elapsed_s=10.0)]).eta_s == pytest.approx(990)
    assert replay([PLAN, logged(1, elapsed_s=10.0), logged(2, elapsed_s=12.0)]).eta_s == pytest.approx(196)
    assert replay([PLAN, logged(1), logged(100)]).eta_s == 0


def test_resuming_drops_what_came_after_the_checkpoint() -> None:
    steps = [logged(step, 5.0 - step / 10) for step in range(1, 31)]
    view = replay([PLAN, *steps[:10], Evaluated(10, 4.2), *steps[10:], Evaluated(30, 2.5), Resumed(20)])
    assert view.step == 20
    assert view.losses.points[-1][0] == 20
    assert (view.eval_loss, view.evals.points) == (4.2, ((10, 4.2, 1),))
    assert view.eta_s is None
    # The pace of the resumed run is its own, whatever clock the first one ended with.
    again = replay([logged(21, elapsed_s=500.0), logged(22, elapsed_s=501.0)], view)
    assert again.eta_s == pytest.approx(78)


def test_notices_are_kept_once_and_bounded() -> None:
    view = replay([Notice("a"), Notice("a"), *(Notice(str(n)) for n in range(50))])
    assert len(view.notices) == NOTICES
    assert len(set(view.notices)) == NOTICES


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2000))
def test_a_curve_is_bounded_and_keeps_steps_and_mean(values: list[float]) -> None:
    curve = Curve()
    for step, value in enumerate(values):
        curve = curve.add(step, value)
    steps = [step for step, *_ in curve.points]
    weights = [weight for *_, weight in curve.points]
    assert len(curve.points) <= CURVE_POINTS
    assert steps == sorted(set(steps))
    assert steps[-1] == len(values) - 1
    assert sum(weights) == len(values)
    assert max(weights) == curve.stride
    mean = sum(value * weight for _, value, weight in curve.points) / len(values)
    assert mean == pytest.approx(sum(values) / len(values), rel=1e-6, abs=1e-6)


def test_a_loss_that_is_no_number_stays_out_of_the_curve() -> None:
    assert Curve().add(1, math.nan).add(2, math.inf).points == ()


def test_nothing_is_known_at_first() -> None:
    view = RunView()
    assert (view.step, view.total_steps, view.fraction, view.eta_s, view.active) == (0, 0, 0, None, True)

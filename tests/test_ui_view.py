from __future__ import annotations

import math
import time

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
    Scored,
    StatusChanged,
    StepLogged,
    TimeLeft,
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
    assert view.losses.points()[-1][0] == 20
    assert (view.eval_loss, view.evals.points()) == (4.2, [(10, 4.2)])
    assert view.eta_s is None
    # The pace of the resumed run is its own, whatever clock the first one ended with.
    again = replay([logged(21, elapsed_s=500.0), logged(22, elapsed_s=501.0)], view)
    assert again.eta_s == pytest.approx(78)


def test_notices_are_kept_once_and_bounded() -> None:
    view = replay([Notice("a"), Notice("a"), *(Notice(str(n)) for n in range(50))])
    assert len(view.notices) == NOTICES
    assert len(set(view.notices)) == NOTICES


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2000))
def test_what_is_drawn_of_a_curve_is_bounded_and_keeps_its_ends_and_extremes(values: list[float]) -> None:
    curve = Curve()
    for step, value in enumerate(values):
        curve = curve.add(step, value)
    points = curve.points()
    steps = [step for step, _ in points]
    assert len(curve) == len(values)
    assert len(points) <= CURVE_POINTS
    assert steps == sorted(set(steps))
    assert [points[0], points[-1]] == [(0, values[0]), (len(values) - 1, values[-1])]
    assert all(values[step] == value for step, value in points)


def test_a_spike_among_many_steps_is_drawn() -> None:
    view = replay(logged(step, 9.0 if step == 4321 else 1.0) for step in range(1, 20_000))
    assert max(view.losses.points(1000), key=lambda point: point[1]) == (4321, 9.0)


def test_a_hundred_thousand_steps_are_folded_and_thinned_in_no_time() -> None:
    events = [logged(step, 3 + math.sin(step)) for step in range(1, 100_001)]
    began = time.process_time()
    view = replay(events)
    folded = time.process_time() - began
    began = time.process_time()
    points = view.losses.points(1000)
    assert len(points) <= 1000
    assert time.process_time() - began < 0.1
    assert folded < 8  # 30 µs a step on a machine that has nothing else to do; training takes milliseconds


def test_a_curve_that_was_shown_never_changes() -> None:
    short = Curve().add(1, 5.0).add(2, 4.0)
    one, other = short.add(3, 3.0), short.add(3, 2.0)
    cut = one.until(1).add(2, 9.0)
    assert short.points() == [(1, 5.0), (2, 4.0)]
    assert (one.last, other.last, cut.points()) == (3.0, 2.0, [(1, 5.0), (2, 9.0)])
    assert one.points() == [(1, 5.0), (2, 4.0), (3, 3.0)]


def test_a_loss_that_is_no_number_stays_out_of_the_curve() -> None:
    curve = Curve().add(1, math.nan).add(2, math.inf)
    assert (len(curve), curve.points(), math.isnan(curve.first)) == (0, [], True)


def test_nothing_is_known_at_first() -> None:
    view = RunView()
    assert (view.step, view.total_steps, view.fraction, view.eta_s, view.active) == (0, 0, 0, None, True)


def test_a_smoothed_curve_begins_at_the_mean_of_its_first_values() -> None:
    curve = Curve()
    for step, value in enumerate([4.0, 2.0, 6.0, 0.0, 1.0], 1):
        curve = curve.add(step, value)
    assert curve.smoothed(3).points() == [
        (1, 4.0),
        (2, 4.0),
        (3, 4.0),
        (4, pytest.approx(8 / 3)),
        (5, pytest.approx(7 / 3)),
    ]
    assert curve.smoothed(9).points()[0] == (1, pytest.approx(2.6))
    assert (len(Curve().smoothed(3)), curve.mean(2), curve.until(2).mean(9)) == (0, 0.5, 3.0)


def test_scores_are_curves_that_a_resume_cuts_and_the_time_left_is_the_latest_told() -> None:
    view = replay([PLAN, Scored(10, {"accuracy": 0.5}), Scored(20, {"accuracy": 0.75})])
    assert view.scores["accuracy"].points() == [(10, 0.5), (20, 0.75)]
    assert replay([Resumed(10)], view).scores["accuracy"].points() == [(10, 0.5)]
    view = replay([logged(21), TimeLeft(40.0)], view)
    assert view.eta_s == 40.0
    assert replay([Preparing("judging"), TimeLeft(9.0)], view).eta_s == 9.0
    assert replay([StatusChanged("finished")], view).eta_s is None

from __future__ import annotations

import time

import numpy
import pytest

from peft_nb.ui.panels.loss_chart import POINTS, TOUCHED, LossChart, drawn, loss_format, smoothed, step_ticks
from peft_nb.ui.view import Curve


def curve(steps: int, every: int = 1, top: float = 4.0) -> Curve:
    made = Curve()
    for step in range(every, steps + 1, every):
        made = made.add(step, top / (1 + step / 10))
    return made


@pytest.fixture
def chart() -> LossChart:
    made = LossChart()
    made.draw(curve(300), curve(300, 50))
    return made


def marks(chart: LossChart) -> tuple[numpy.ndarray, ...]:
    raw, smooth, evals, touched, tests, *_ = chart.figure.marks
    assert list(evals.x) == list(tests.x)
    return raw, smooth, evals, touched


def test_smoothing_starts_at_the_mean_of_the_first_points() -> None:
    assert smoothed(numpy.array([4.0, 2.0]), 0.0).tolist() == [4.0, 2.0]
    assert smoothed(numpy.array([4.0, 2.0, 5.0]), 0.5).tolist() == pytest.approx([3.0, 2.5, 3.75])


def test_ticks_are_whole_steps_each_once_and_losses_have_equal_decimals() -> None:
    assert step_ticks(0, 3) == [0, 1, 2, 3]
    assert step_ticks(0, 126) == [0, 50, 100]
    assert step_ticks(990, 1010.5) == [990, 995, 1000, 1005, 1010]
    assert loss_format(numpy.array([1.0, 4.0])) == ".1f"
    assert loss_format(numpy.array([1.0, 1.02])) == ".3f"
    assert loss_format(numpy.array([])) == ".1f"


def test_there_is_no_chart_before_there_are_losses_and_then_room_for_all_steps() -> None:
    chart = LossChart()
    assert chart.box.layout.display == "none"
    chart.draw(curve(3), Curve().add(0, 4.0), 20)
    assert chart.box.layout.display is None
    *_, planned, train, test = chart.figure.marks
    assert planned.x.tolist() == [0, 20]
    assert planned.preserve_domain == {"y": True}
    assert chart.figure.axes[0].tick_values.tolist() == [0, 5, 10, 15, 20]
    assert (train.x.tolist(), test.x.tolist()) == ([3], [0])  # the names stand at the ends of the curves
    assert train.y_offset != test.y_offset


def test_zooming_brings_back_what_was_thinned_out() -> None:
    steps = numpy.arange(100_000)
    values = numpy.sin(steps)
    outline = drawn(steps, values, -numpy.inf, numpy.inf)
    near = drawn(steps, values, 50_000, 50_300)
    assert max(len(outline), len(near)) <= POINTS
    assert set(range(50_000, 50_301)) <= set(near.tolist())
    assert {0, 99_999} <= set(near.tolist())


def test_it_draws_both_curves_and_says_the_newest_values(chart: LossChart) -> None:
    raw, smooth, evals, touched = marks(chart)
    assert (len(raw.x), len(smooth.x), list(evals.x)) == (300, 300, [50, 100, 150, 200, 250, 300])
    assert 0 < len(touched.x) <= TOUCHED
    assert (chart.step.value, chart.step.max) == (300, 300)
    assert "train loss 0.129 · eval loss 0.129" in chart.told.value


def test_the_chosen_step_stays_and_the_newest_moves_on(chart: LossChart) -> None:
    chart.draw(curve(400), curve(400, 50))
    assert chart.step.value == 400
    chart.step.value = 120
    assert "train loss 0.308 · eval loss 0.364 (step 100)" in chart.told.value
    chart.draw(curve(500), curve(500, 50))
    assert chart.step.value == 120
    chart.draw(curve(100), Curve())  # a resumed run begins before that
    assert chart.step.value == 100
    assert "eval loss" not in chart.told.value


def test_every_control_changes_what_is_drawn(chart: LossChart) -> None:
    _, smooth, *_ = marks(chart)
    before = smooth.y.copy()
    chart.smoothing.value = "none"
    assert (smooth.y != before).any()
    chart.shown.value = "the last tenth"
    assert min(smooth.x) == 270
    linear = chart.figure.marks
    chart.log.value = True
    assert chart.figure.marks != linear
    assert type(chart.figure.axes[1].scale).__name__ == "LogScale"
    assert chart.figure.interaction is None
    chart.pan.value = True
    assert chart.figure.interaction.scales["y"] == [chart.figure.axes[1].scale]
    chart.figure.axes[0].scale.min = 280.0
    chart.reset.click()
    assert chart.figure.axes[0].scale.min is None
    assert (chart.shown.value, min(chart.figure.marks[1].x)) == ("all steps", 1)


def test_nothing_is_known_at_first_and_a_loss_of_nothing_has_a_place_on_a_log_scale() -> None:
    chart = LossChart()
    assert len(chart.figure.marks[0].x) == 0
    chart.log.value = True
    chart.draw(Curve().add(1, 1.0).add(2, 0.0), Curve())
    assert min(chart.figure.marks[0].y) > 0


def test_a_hundred_thousand_steps_are_drawn_in_a_blink_with_a_thousand_points() -> None:
    chart, long = LossChart(), curve(100_000)
    chart.draw(long, Curve())
    began = time.perf_counter()
    for step in range(5):
        long = long.add(100_001 + step, 1.0)
        chart.draw(long, Curve())
    assert (time.perf_counter() - began) / 5 < 0.1
    assert max(len(mark.x) for mark in chart.figure.marks) <= POINTS


def test_curves_of_any_length_are_drawn_whole_and_in_part() -> None:
    for length in (3, 499, 501, 512, 749, 751, 1_001, 5_000):
        steps = numpy.arange(1, length + 1)
        values = 1 / steps
        for low, high in ((0.0, numpy.inf), (length / 2, length), (length / 3, length / 2)):
            places = drawn(steps, values, low, high)
            assert len(values[places]) == len(places) <= POINTS
            assert places[0] == 0
            assert places[-1] == length - 1

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy
import pytest

from peft_nb.ui.panels import chart as module
from peft_nb.ui.panels.chart import POINTS, SMOOTHING, Chart, Line, drawn, smoothed
from peft_nb.ui.view import Curve


def curve(steps: int, every: int = 1, top: float = 4.0) -> Curve:
    made = Curve()
    for step in range(every, steps + 1, every):
        made = made.add(step, top / (1 + step / 10))
    return made


def numbers(line: dict[str, Any], level: int = 0) -> tuple[list[float], list[float]]:
    """Steps and values as the front end reads them."""
    return numpy.frombuffer(line["x"]).tolist(), numpy.frombuffer(line["y"][level]).tolist()


def test_smoothing_starts_at_the_mean_of_the_first_points() -> None:
    assert smoothed(numpy.array([4.0, 2.0]), 0.0).tolist() == [4.0, 2.0]
    assert smoothed(numpy.array([4.0, 2.0, 5.0]), 0.5).tolist() == pytest.approx([3.0, 2.5, 3.75])


def test_there_is_no_chart_before_there_are_values_and_then_room_for_all_steps() -> None:
    chart = Chart()
    chart.draw([Line("train loss", Curve(), "loss")], 20)
    assert (chart.layout.display, chart.lines) == ("none", [])
    chart.draw([Line("train loss", curve(3), "loss", noisy=True), Line("eval loss", Curve().add(0, 4.0), "loss")], 20)
    assert (chart.layout.display, chart.end) == (None, 20)
    train, test = chart.lines
    assert [len(train["y"]), len(test["y"])] == [len(SMOOTHING), 1]
    assert numbers(test) == ([0.0], [4.0])
    chart.draw([Line("train loss", curve(3), "loss")], 100_000)
    assert chart.end == 60  # or the young curve of a long run were a dot
    chart.draw([Line("train loss", curve(3), "loss")])
    assert chart.end == 3


def test_every_level_of_smoothing_is_worked_out_of_all_values() -> None:
    long = curve(5_000)
    chart = Chart()
    chart.draw([Line("train loss", long, "loss", noisy=True)])
    steps, raw = numbers(chart.lines[0])
    _, values = long.arrays()
    assert len(steps) <= POINTS
    for level, weight in enumerate(SMOOTHING.values()):
        whole = smoothed(values, weight)
        assert numbers(chart.lines[0], level)[1] == [whole[int(step) - 1] for step in steps]
    assert raw == [values[int(step) - 1] for step in steps]


def test_zooming_brings_back_what_was_thinned_out() -> None:
    steps = numpy.arange(100_000)
    values = numpy.sin(steps)
    outline = drawn(steps, values, -numpy.inf, numpy.inf)
    near = drawn(steps, values, 50_000, 50_300)
    assert max(len(outline), len(near)) <= POINTS
    assert set(range(50_000, 50_301)) <= set(near.tolist())
    assert {0, 99_999} <= set(near.tolist())
    chart = Chart()
    chart.draw([Line("train loss", curve(20_000), "loss")])
    assert not set(range(5_000, 5_301)) <= set(numbers(chart.lines[0])[0])
    chart.view = [5_000.0, 5_300.0]
    assert set(range(5_000, 5_301)) <= set(numbers(chart.lines[0])[0])


def test_a_hundred_thousand_steps_are_drawn_in_a_blink_with_a_thousand_points() -> None:
    chart, long = Chart(), curve(100_000)
    chart.draw([Line("train loss", long, "loss", noisy=True)])
    began = time.process_time()
    for step in range(5):
        long = long.add(100_001 + step, 1.0)
        chart.draw([Line("train loss", long, "loss", noisy=True)])
    assert (time.process_time() - began) / 5 < 0.1
    assert len(numbers(chart.lines[0])[0]) <= POINTS


def test_curves_of_any_length_are_drawn_whole_and_in_part() -> None:
    for length in (3, 499, 501, 512, 749, 751, 1_001, 5_000):
        steps = numpy.arange(1, length + 1)
        values = 1 / steps
        for low, high in ((0.0, numpy.inf), (length / 2, length), (length / 3, length / 2)):
            places = drawn(steps, values, low, high)
            assert len(values[places]) == len(places) <= POINTS
            assert places[0] == 0
            assert places[-1] == length - 1


def test_the_front_end_knows_the_same_levels_and_traits() -> None:
    script = Path(module.__file__).with_name("chart.js").read_text("utf-8")
    (levels,) = re.findall(r"const LEVELS = \[(.*)\]", script)
    assert [one.strip(' "') for one in levels.split(",")] == list(SMOOTHING)
    named = {*re.findall(r'model\.get\("(\w+)"', script), *re.findall(r'this\.set\("(\w+)"', script)}
    assert named <= set(Chart().keys)


def test_the_library_keeps_its_licence() -> None:
    folder = Path(module.__file__).with_name("uplot")
    assert "https://github.com/leeoniya/uPlot (v1.6.32)" in folder.joinpath("uPlot.iife.min.js").read_text("utf-8")
    assert "Permission is hereby granted" in folder.joinpath("LICENSE").read_text("utf-8")

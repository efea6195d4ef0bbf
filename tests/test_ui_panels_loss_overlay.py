from __future__ import annotations

import time

from peft_nb.plots import running_mean
from peft_nb.ui.panels.loss_overlay import MOST_POINTS, legend, lines, overlay, thinned


def test_names_have_lines_of_their_own_and_are_escaped() -> None:
    looks = lines(["a", "<b>"])
    assert len(set(looks.values())) == 2
    assert "&lt;b&gt;" in legend(looks)
    assert "<b>" not in legend(looks)


def test_only_what_was_logged_is_drawn() -> None:
    said, beside = overlay({"a": ([(1.0, 2.0), (2.0, 1.0)], []), "base": ([], [])})
    (training,) = beside.children
    assert training.marks[0].x.tolist() == [1, 2]
    assert "base" not in said.value


def test_a_long_curve_is_thinned_and_keeps_its_ends_and_peaks() -> None:
    points = [(float(step), 1.0 + (step == 70_000)) for step in range(100_000)]
    began = time.process_time()
    x, y = thinned(points)
    assert time.process_time() - began < 1
    assert len(x) == len(y) == MOST_POINTS
    assert (x[0], x[-1]) == (0, 99_999)
    assert (70_000, 2.0) in set(zip(x, y, strict=True))
    assert running_mean([0.0, 3.0]) == [0.0, 3.0]
    assert running_mean([float(value) for value in range(80)])[40] == 40

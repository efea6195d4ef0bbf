from __future__ import annotations

import numpy
import pytest

from peft_nb.evaluation.drift import TwoSample, alarms, energy, grown, shares


def test_the_energy_distance_is_its_definition() -> None:
    draw = numpy.random.default_rng(1)
    before, now = draw.normal(size=(9, 3)), draw.normal(1, size=(7, 3))

    def mean(one: numpy.ndarray, other: numpy.ndarray) -> float:
        return float(numpy.linalg.norm(one[:, None] - other, axis=-1).mean())

    distance, _ = energy(before, now)
    assert distance == pytest.approx(2 * mean(before, now) - mean(before, before) - mean(now, now))


@pytest.mark.parametrize("kind", ["vectors", "numbers", "kinds"])
def test_samples_of_one_kind_are_told_apart_in_five_percent_of_cases(kind: str) -> None:
    draw = numpy.random.default_rng(0)
    low = 0
    for seed in range(300):
        if kind == "kinds":
            p = shares(list(draw.integers(4, size=30)), list(draw.integers(4, size=20)), seed)[1]
        else:
            size = (30, 5) if kind == "vectors" else (30,)
            p = energy(draw.normal(size=size), draw.normal(size=(20, *size[1:])), seed)[1]
        low += p <= 0.05
    assert 3 <= low <= 29  # 15 are expected; the bounds are missed in one case of 1,000


def test_what_has_moved_is_seen() -> None:
    draw = numpy.random.default_rng(0)
    assert energy(draw.normal(size=(40, 8)), draw.normal(0.8, size=(20, 8)))[1] <= 0.002
    assert energy(numpy.arange(30.0), numpy.arange(30.0) + 25)[1] <= 0.002
    assert shares(["a"] * 20 + ["b"] * 20, ["a"] * 2 + ["c"] * 18)[1] <= 0.002
    assert energy(numpy.ones(5), numpy.ones(5)) == (0.0, 1.0)


def test_several_tests_err_together_as_one() -> None:
    def told(*ps: float) -> list[bool]:
        return alarms([TwoSample("", "", "", 0.0, p) for p in ps])

    assert told(0.04) == [True]
    assert told(0.04, 0.9) == [False, False]
    assert told(0.9, 0.02, 0.04) == [False, False, False]
    assert told(0.9, 0.01, 0.02) == [False, True, True]


def test_words_that_grew_are_named_and_those_that_did_not_are_not() -> None:
    before = [f"where is my order number {n}" for n in range(40)]
    now = [f"where is my invoice number {n} please" for n in range(20)] + before[:5]
    assert {word for word, *_ in grown(before, now)} == {"invoice", "please"}
    assert grown(before, now)[0][1:] == (0, 20)
    assert grown(before, before) == []

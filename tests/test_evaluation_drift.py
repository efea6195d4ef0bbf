from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest

from peft_nb.evaluation import drift
from peft_nb.evaluation.drift import Measure, TwoSample, compare, grown

KINDS: dict[str, Callable[[Any], Any]] = {
    "gaussian": drift.gaussian,
    "nearest": drift.nearest,
    "energy": drift.energy,
    "rise": drift.rise,
    "shares": drift.shares,
    "growth": drift.growth,
}


def compared(statistic: Any, both: Any, first: int, seed: int = 0) -> TwoSample:
    (found,) = compare((first, len(both) - first, [Measure("it", "", "", (statistic(both),))]), seed=seed)
    return found


def drawn(name: str, draw: numpy.random.Generator, rows: int, moved: float = 0.0) -> Any:
    if name in ("gaussian", "nearest"):
        found = draw.normal(size=(rows, 5)) + moved
        return found / numpy.linalg.norm(found, axis=1, keepdims=True)
    return draw.normal(moved, size=rows) if name in ("energy", "rise") else draw.binomial(4, 0.3 + moved / 2, size=rows)


def test_the_energy_distance_is_its_definition() -> None:
    draw = numpy.random.default_rng(1)
    before, now = draw.normal(size=9), draw.normal(1, size=7)

    def mean(one: numpy.ndarray, other: numpy.ndarray) -> float:
        return float(numpy.abs(one[:, None] - other).mean())

    distance = compared(drift.energy, numpy.concatenate([before, now]), 9).distance
    assert distance == pytest.approx(2 * mean(before, now) - mean(before, before) - mean(now, now))


@pytest.mark.parametrize("name", KINDS)
def test_samples_of_one_kind_are_told_apart_as_rarely_as_is_said_and_others_are_seen(name: str) -> None:
    draw = numpy.random.default_rng(0)
    low = sum(compared(KINDS[name], drawn(name, draw, 50), 30, seed).p <= 0.05 for seed in range(200))
    assert low <= 22  # 10 are expected; the bound is missed in one case of 1,000
    both = numpy.concatenate([drawn(name, draw, 60), drawn(name, draw, 40, 0.9)])
    assert compared(KINDS[name], both, 60).alarm


def test_what_falls_has_not_risen() -> None:
    numbers = numpy.concatenate([numpy.arange(30.0), numpy.arange(20.0) - 25])
    assert compared(drift.rise, numbers, 30).p > 0.9
    assert compared(drift.rise, -numbers, 30).alarm
    assert compared(drift.rise, -numbers, 30).distance == pytest.approx(14.5 + 15.5)


def test_rows_that_are_all_alike_are_no_change() -> None:
    same = numpy.ones((20, 3)) / numpy.sqrt(3)
    for name in KINDS:
        both = same if name in ("gaussian", "nearest") else numpy.ones(20)
        assert compared(KINDS[name], both, 12).p == 1.0


def test_several_tests_on_the_same_rows_err_together_as_one() -> None:
    draw = numpy.random.default_rng(0)
    low, same = 0, 0
    for seed in range(200):
        several = [Measure(str(n), "", "", (drift.energy(draw.normal(size=50)),)) for n in range(4)]
        low += min(one.p for one in compare((30, 20, several), seed=seed)) <= 0.05
        one = drift.energy(draw.normal(size=50))
        twice = compare((30, 20, [Measure(str(n), "", "", (one,)) for n in range(4)]), seed=seed)
        same += min(one.p for one in twice) <= 0.05
    assert low <= 22
    assert 1 <= same <= 22  # by Bonferroni it would be a fourth of 10


def test_groups_of_other_rows_are_corrected_by_their_number() -> None:
    draw = numpy.random.default_rng(0)
    one = (30, 20, [Measure("it", "", "", (drift.energy(draw.normal(size=50)),))])
    alone, both = compare(one)[0].p, compare(one, one)
    assert [found.p for found in both] == [min(1.0, 2 * alone)] * 2


def test_topics_are_the_same_in_any_order_and_those_that_grew_are_found() -> None:
    draw = numpy.random.default_rng(0)
    middles = 10 * numpy.eye(3)[draw.integers(3, size=60)]
    middles[50:] = 10 * numpy.array([1.0, 1.0, 0.0])
    rows = middles + 0.1 * draw.normal(size=(60, 3))
    found, order = drift.topics(rows), draw.permutation(60)
    again = drift.topics(rows[order])
    assert len({*zip(found[order].tolist(), again.tolist(), strict=True)}) == len({*found.tolist()})
    (kind, p), *_ = drift.surely_grown(found, 40)
    assert {*found[50:].tolist()} == {kind}
    assert p <= 0.01
    assert {*drift.topics(numpy.ones((30, 4))).tolist()} == {0}


def test_words_that_grew_are_named_and_those_that_did_not_are_not() -> None:
    before = [f"where is my order number {n}" for n in range(40)]
    now = [f"where is my invoice number {n} please" for n in range(20)] + before[:5]
    assert {word for word, *_ in grown(before, now)} == {"invoice", "please"}
    assert grown(before, now)[0][1:] == (0, 20)
    assert grown(before, before) == []

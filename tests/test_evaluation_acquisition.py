from __future__ import annotations

import numpy
import pytest

from peft_nb.evaluation.acquisition import LEAST, STRATEGIES, Curve, choose, classifier, compare, entropy, margin


def clouds(each: int, classes: int = 8, seed: int = 0, spread: float = 0.08) -> tuple[numpy.ndarray, list[str]]:
    """Vectors of length 1 around one middle a class."""
    draw = numpy.random.default_rng(seed)
    middles = numpy.random.default_rng(9).normal(size=(classes, 16))
    rows = numpy.repeat(middles, each, 0) / 4 + draw.normal(0, spread * 3, (classes * each, 16))
    return rows / numpy.linalg.norm(rows, axis=1, keepdims=True), [f"c{n // each}" for n in range(classes * each)]


def test_doubt_is_what_it_says() -> None:
    told = numpy.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    assert margin(told) == pytest.approx([0, 1, 1])
    assert entropy(told) == pytest.approx([0, numpy.log(2) / numpy.log(3), 1])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_as_many_different_rows_are_chosen_as_were_asked_for(strategy: str) -> None:
    vectors, _ = clouds(5)
    doubt = numpy.linspace(0, 1, len(vectors))
    found = choose(strategy, 12, vectors, doubt, seed=3)
    assert len(found) == len({*found}) == 12
    assert found == choose(strategy, 12, vectors, doubt, seed=3)
    assert {*choose(strategy, 99, vectors, doubt)} == {*range(40)}
    assert len(choose(strategy, 3, numpy.ones((9, 2)), numpy.ones(9))) == 3  # rows that are alike


def test_strategies_choose_what_they_say() -> None:
    vectors, labels = clouds(20)
    doubt = numpy.linspace(0, 1, len(vectors))
    assert choose("uncertainty", 3, vectors, doubt) == [159, 158, 157]
    assert len({labels[place] for place in choose("diversity", 8, vectors)}) >= 7  # one of nearly each kind
    both = choose("both", 4, vectors, doubt)
    assert min(both) >= 120  # the forty of most doubt
    assert both == sorted(both, reverse=True)
    assert len({labels[place] for place in both}) == 2  # of the two kinds that these are of
    assert choose("random", 5, vectors, seed=1) != choose("random", 5, vectors, seed=2)


def test_a_strategy_that_gains_is_told_from_one_that_does_not() -> None:
    # A run knows two kinds; most rows are of these, the others of six that it has never seen.
    rows, labels = clouds(20, seed=1, spread=0.05)
    known = rows[:40], labels[:40]
    rows, labels = clouds(60, seed=2, spread=0.05)
    some = [place for place in range(len(rows)) if place < 120 or place % 60 < 15]
    curves = [compare(name, rows[some], [labels[place] for place in some], known) for name in ("both", "random")]
    gain, none = curves
    assert gain.counts == (21, 42, 70)
    assert gain.gain == pytest.approx(numpy.mean(numpy.subtract(gain.chosen, gain.random)))
    assert gain.gains
    assert gain.chosen[0] > gain.random[0] + 0.02
    assert none.low < 0 < none.high
    assert "choose with strategy random" in none.verdict


def test_the_verdict_follows_from_the_interval() -> None:
    def curve(low: float) -> Curve:
        return Curve("both", (10,), (0.6,), (0.5,), 0.1, low, 0.2)

    assert curve(0.02).verdict == "both is 10.0 points more accurate than random choice (95 % interval +2.0 to +20.0)"
    assert curve(-0.01).verdict.startswith("no gain over random choice is shown")
    assert LEAST >= 30


def test_the_stand_in_for_a_model_learns() -> None:
    rows, labels = clouds(10)
    others, truth = clouds(10, seed=5)
    assert (classifier(rows, labels).predict(others) == numpy.array(truth)).mean() > 0.9

from __future__ import annotations

import numpy
import pytest
from sklearn.metrics import cohen_kappa_score

from peft_nb.evaluation.kappa import kappa


def test_it_is_the_kappa_of_scikit_learn() -> None:
    draw = numpy.random.default_rng(0)
    first, second = (list(draw.choice(["a", "b", "c"], 40, p=[0.6, 0.3, 0.1])) for _ in range(2))
    found = kappa(first, second)
    assert found.value == pytest.approx(cohen_kappa_score(first, second))
    assert found.low is not None
    assert found.low < found.value < found.high  # type: ignore[operator]
    assert str(found).startswith(f"{found.equal} of 40 rows alike, Cohen's kappa ")


def test_where_all_are_alike_the_interval_still_says_how_few_there_were() -> None:
    few, many = (kappa(["a", "b"] * rows, ["a", "b"] * rows) for rows in (3, 100))
    assert few.value == many.value == 1
    assert few.low < 0.4 < 0.9 < many.low  # type: ignore[operator]
    alone = kappa(["a"] * 5, ["a"] * 5)
    assert alone == (5, 5, None, None, None)
    assert "nothing can be said of chance" in str(alone)


def test_the_interval_holds_the_truth_in_95_of_100_cases() -> None:
    draw = numpy.random.default_rng(1)

    def two(rows: int) -> list[list[str]]:
        truth = draw.choice(4, rows, p=[0.5, 0.3, 0.1, 0.1])
        return [[str(n) for n in numpy.where(draw.random(rows) < 0.85, truth, draw.choice(4, rows))] for _ in range(2)]

    true = kappa(*two(100_000)).value
    found = [kappa(*two(40)) for _ in range(400)]
    inside = sum(one.low <= true <= one.high for one in found)  # type: ignore[operator]
    assert 366 <= inside <= 396  # 380 are expected

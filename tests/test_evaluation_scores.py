from __future__ import annotations

import math
import random
from typing import Any

import numpy
import pytest

from peft_nb.errors import DataError
from peft_nb.evaluation import scores


@pytest.mark.parametrize(
    ("answer", "reference", "equal"),
    [
        ("The Salt Barn.", "salt barn", True),
        ("  42 ", "42", True),
        ("It's  a dog!", "its dog", True),
        ("Straße", "STRASSE", True),
        ("salt barns", "salt barn", False),
        ("", "barn", False),
        ("the", "a", False),
        ("The Band", "Band", True),
    ],
)
def test_exact_match_forgives_case_articles_and_punctuation(answer: str, reference: str, equal: bool) -> None:
    assert scores.exact_match(answer, reference) == float(equal)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        # Lin (2004), section 3.1: "police killed the gunman" against three candidates, with beta = 1.
        ("police kill the gunman", "police killed the gunman", 3 / 4),
        ("the gunman kill police", "police killed the gunman", 2 / 4),
        ("the gunman police killed", "police killed the gunman", 2 / 4),
        # All 4 words of the reference, in order, among 6.
        ("the cat sat on the mat", "the cat the mat", 2 * 4 / (6 + 4)),
        ("Ahoy! It is 41 days.", "ahoy, it is 41 days", 1.0),
        ("", "something", 0.0),
        ("something", "", 0.0),
        ("ünï cödé", "Ünï", 2 / 3),
    ],
)
def test_rouge_l_is_what_one_reckons_by_hand(answer: str, reference: str, expected: float) -> None:
    assert scores.rouge_l(answer, reference) == pytest.approx(expected)


def test_rouge_l_is_that_of_the_usual_package() -> None:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    theirs, draw = rouge_scorer.RougeScorer(["rougeL"]), random.Random(0)
    for _ in range(50):
        one, other = (" ".join(draw.choices(["the", "cat", "sat", "on", "a", "mat"], k=8)) for _ in range(2))
        assert scores.rouge_l(one, other) == pytest.approx(theirs.score(other, one)["rougeL"].fmeasure)


def test_accuracy_and_macro_f1_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, f1_score

    draw = random.Random(0)
    truth, given = draw.choices("abc", k=60), draw.choices("abcd", k=60)
    assert scores.accuracy(given, truth) == pytest.approx(accuracy_score(truth, given))
    expected = f1_score(truth, given, average="macro", labels=["a", "b", "c"])
    assert scores.macro_f1(given, truth) == pytest.approx(expected)
    assert scores.macro_f1(["x", "b"], ["a", "b"]) == pytest.approx(0.5)


def test_losses_and_tokens() -> None:
    assert scores.perplexity(math.log(8)) == pytest.approx(8)
    assert scores.perplexity(1e6) == math.inf
    assert scores.token_accuracy([1, 2, 3, 4], [1, 2, 0, 0]) == 0.5


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = numpy.random.default_rng(0)
    intervals = [scores.bootstrap(draw.normal(0.3, 1.0, 80), seed)[1:] for seed in range(200)]
    assert 0.90 <= numpy.mean([low < 0.3 < high for low, high in intervals]) <= 0.99


def test_the_bootstrap_is_seeded_and_as_wide_as_the_standard_error_says() -> None:
    values = numpy.random.default_rng(1).normal(5, 2, 400)
    mean, low, high = scores.bootstrap(values, 3)
    assert (mean, low, high) == scores.bootstrap(values.tolist(), 3) != scores.bootstrap(values, 4)
    assert mean == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert scores.bootstrap([0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(("result", "kind"), [("1", "a str"), (math.nan, "nan"), (None, "a NoneType")], ids=str)
def test_a_function_of_the_user_has_to_give_a_number(result: Any, kind: str) -> None:
    with pytest.raises(DataError, match=f"^the function for score gave {kind}; it has to give a number$"):
        scores.mark(lambda prompt, answer, reference: result, "a", "b", "c")

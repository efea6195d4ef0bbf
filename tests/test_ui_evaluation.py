from __future__ import annotations

import pytest

from peft_nb.metrics import METRICS
from peft_nb.ui import evaluation

NAME = (METRICS["forgetting"].phrase or METRICS["forgetting"].title).capitalize()
LINE = {"metric": "forgetting", "wanted": "< 0.05", "got": 0.01, "passed": True, "why": ""}


def test_only_what_was_measured_is_said() -> None:
    assert evaluation.rows({}) == evaluation.cost({}, "token") == []
    assert evaluation.verdict({}) == ""
    assert evaluation.rows({"score": 0.5, "base_score": 0.25}) == [("score", "0.25 → 0.50")]
    assert evaluation.rows({"score": 0.5, "accuracy": 0.5}) == []
    assert evaluation.rows({"recall_at_k": 0.9}) == [("recall of documents (recall_at_k)", "90 %")]


@pytest.mark.parametrize("unit", ["token", "text"])
def test_latency_is_given_for_a_unit(unit: str) -> None:
    metrics = {"latency_ms": 4.0, "base_latency_ms": 3.0}
    assert evaluation.cost(metrics, unit) == evaluation.labelled("latency_ms", f"4 ms per {unit}, base model 3")


def test_the_verdict_names_what_fell_short() -> None:
    assert evaluation.verdict({"criteria": [LINE]}) == (
        f"Verdict: passed, everything demanded was met. {NAME} 0.01, should be below 0.05."
    )
    failed = {**LINE, "got": None, "passed": False, "why": "no texts"}
    assert evaluation.verdict({"criteria": [LINE, failed]}) == (
        f"Verdict: failed, 1 of 2 demands not met. {NAME} was not measured (no texts), should be below 0.05."
    )

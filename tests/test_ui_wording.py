from __future__ import annotations

import math

import pytest

from peft_nb.ui import wording


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (4.23, "4.2 s"),
        (6, "6 s"),
        (9.97, "10 s"),
        (59.6, "1 min 0 s"),
        (125, "2 min 5 s"),
        (12000, "3 h 20 min"),
    ],
)
def test_duration(seconds: float, said: str) -> None:
    assert wording.duration(seconds) == said


def test_memory_changes_unit() -> None:
    assert [wording.memory(mb) for mb in (3.456, 987, 24000)] == ["3.46 MB", "987 MB", "24.0 GB"]


def test_a_loss_that_is_no_number_is_said_in_words() -> None:
    assert [wording.loss(value) for value in (1.23456, math.nan, math.inf)] == [
        "1.235",
        "not a number",
        "not a number",
    ]


def test_count_and_share() -> None:
    assert [wording.count(n, "step") for n in (0, 1, 1200)] == ["0 steps", "1 step", "1,200 steps"]
    assert [wording.share(part) for part in (0.00352, 0.035, 0.5)] == ["0.35 %", "3.5 %", "50 %"]


def test_a_metric_is_said_in_its_unit() -> None:
    said = {
        "loss": "1.500",
        "rise": "+1.500",
        "score": "1.500",
        "s": "1.5 s",
        "ms": "1.5 ms",
        "MB": "1.5 MB",
        "": "1.5",
    }
    assert {unit: wording.measured(1.5, unit) for unit in said} == said
    assert wording.measured(0.25, "share") == "25 %"
    assert wording.measured(1234567, "count") == "1,234,567"
    assert wording.measured(12.3456, "EUR") == "12.35 EUR"

"""benchmarks/preference.py: its pairs, and what its table says."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import preference

OURS = preference.Preferred("peft_nb", [1.0, 2.0, 1.0], 500, 0.6931, 0.5, 2.0, 70, "float32", 0, 0, whole=10)


def test_pairs_are_many_different_prompts_of_about_200_tokens_whose_longer_answer_is_as_often_the_wrong_one() -> None:
    rows = preference.pairs(48)
    assert rows == preference.pairs(48)
    assert len({row["prompt"] for row in rows}) == 48
    assert all(row["chosen"] != row["rejected"] for row in rows)
    assert all(90 < len(row["prompt"].split()) < 130 for row in rows)
    assert 10 < sum(len(row["chosen"]) > len(row["rejected"]) for row in rows) < 38


def test_the_table_takes_each_part_of_the_time_at_its_best_and_shows_what_was_learned() -> None:
    again = replace(OURS, step_seconds=[2.0, 1.0, 1.0], whole=8)
    slow = replace(OURS, contender="trl-best", step_seconds=[4.0, 4.0, 4.0], peak_mb=1000, whole=16)
    *_, ours, other = preference.table([OURS, again, slow]).splitlines()
    assert "| 1.00 | 1.00 | 1.00 | 3.0 | 1.0 | 500 | 0.6931 | 0.5000 | 2.000 | 70 |" in ours
    assert "| trl-best | float32 | 4.00 | 2.00 | 2.00 | 12.0 | 4.0 | 1000 |" in other


def test_contenders_are_known_by_what_they_are_called() -> None:
    assert next(iter(preference.CONTENDERS)) == "peft_nb"
    assert {name.partition("-")[0] for name in preference.CONTENDERS} == {"peft_nb", "trl"}


def test_answers_a_second_are_compared_each_contender_at_its_fastest() -> None:
    ours = preference.Rewarded("peft_nb", "float32", 64, 32.0, 1000, tokens=40.0, reward=0.5)
    slow = replace(ours, contender="trl-best", seconds=96.0, peak_mb=2500)
    *_, first, other = preference.speeds(
        [ours, slow, replace(ours, seconds=64.0), replace(slow, seconds=80.0)]
    ).splitlines()
    assert first == "| peft_nb | float32 | 1.00 | 1.00 | 2.00 | 32.0 | 1000 | 40.0 | 0.500 |"
    assert other.startswith("| trl-best | float32 | 2.50 | 2.50 | 0.80 | 80.0 | 2500 |")


def test_the_reward_is_that_of_brief_answers() -> None:
    assert preference.brief(["one two", "word " * 20]) == [1.0, 0.5]

from __future__ import annotations

import pytest

from peft_nb.ui import votes


def test_letters_go_on_after_z() -> None:
    assert votes.letters(28)[-3:] == ["Z", "27", "28"]
    assert list(votes.shuffled(["a"], 0, 1)) == ["A"]


def test_votes_become_shares_with_an_interval_and_an_evaluation_of_each_run() -> None:
    given = {0: "a", 1: None, 2: "a", 3: "b"}
    table = votes.tally(given, ["b", "a"])
    assert table.index.tolist() == ["a", "b"]
    assert table.loc["a"].tolist()[:3] == [2, 3, pytest.approx(2 / 3)]
    assert 0 < table.loc["a", "low"] < 2 / 3 < table.loc["a", "high"] < 1
    told = votes.evaluations(given, {"a": "lora-1", "b": "base"})
    assert (told["a"].measure, told["a"].detail) == ("preferred to base", {"won": 2, "of": 3, "undecided": 1})
    assert votes.evaluations({0: None}, {"a": "lora-1"})["a"].value is None


def test_the_orders_of_a_blind_vote_differ_from_prompt_to_prompt() -> None:
    orders = [tuple(votes.shuffled(["a", "b", "c"], place, 1).values()) for place in range(9)]
    assert len(set(orders)) > 2
    assert orders == [tuple(votes.shuffled(["a", "b", "c"], place, 1).values()) for place in range(9)]

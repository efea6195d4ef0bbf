from __future__ import annotations

import math
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

import peft_nb
from peft_nb.data import detection, sources, unused
from peft_nb.spec import RunSpec
from peft_nb.store import Store, Vote
from peft_nb.tasks import proposed
from peft_nb.ui import votes

TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Where is it?"},
]


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


def test_votes_come_back_as_pairs_that_a_run_takes_as_they_are(store: Store) -> None:
    store.vote("Hello", {"lora-1": "Hi.", "lora-2": "Good day to you.", "base": "Eh?"}, "lora-1")
    store.vote(TALK, {"lora-1": "There.", "base": "Here."}, "base")
    store.vote("Bye", {"lora-1": "Bye.", "base": "Bye!"}, None)
    store.vote("Why?", {"lora-1": "So."}, "lora-1")
    table = peft_nb.votes(store=store)
    assert table[["prompt", "chosen", "rejected", "chosen_run", "rejected_run"]].values.tolist() == [
        ["Hello", "Hi.", "Good day to you.", "lora-1", "lora-2"],
        ["Hello", "Hi.", "Eh?", "lora-1", "base"],
        [TALK, "Here.", "There.", "base", "lora-1"],
    ]
    rows = sources.read("votes", {"votes": table}).train
    layout = detection.detect(rows)
    assert (layout.kind, layout.columns) == ("preference", {one: one for one in ("prompt", "chosen", "rejected")})
    assert layout.pairs(rows[2]) == [
        (TALK, [{"role": "assistant", "content": "Here."}], [{"role": "assistant", "content": "There."}])
    ]
    assert {one.what for one in unused.find(rows, layout.columns.values())} == {"aside"}
    assert proposed(RunSpec(data="votes"), layout).task == "dpo"


def test_thumbs_come_back_as_rated_answers(store: Store) -> None:
    store.vote("Hello", {"lora-1": "Hi."}, "lora-1")
    store.vote(TALK, {"lora-1": "There."}, None)
    table = peft_nb.votes(rated=True, store=store)
    assert table[["prompt", "completion", "label", "run"]].values.tolist() == [
        ["Hello", "Hi.", True, "lora-1"],
        [TALK, "There.", False, "lora-1"],
    ]
    rows = sources.read(table).train
    layout = detection.detect(rows)
    assert layout.rated(rows[1]) == ([*TALK, {"role": "assistant", "content": "There."}], False)
    assert {one.what for one in unused.find(rows, layout.columns.values())} == {"aside"}
    assert proposed(RunSpec(data="votes"), layout).task == "kto"


def test_without_votes_the_tables_have_their_columns(store: Store) -> None:
    assert list(peft_nb.votes(store=store).columns)[:3] == ["prompt", "chosen", "rejected"]
    assert list(peft_nb.votes(rated=True, store=store).columns)[:3] == ["prompt", "completion", "label"]
    assert peft_nb.votes(store=store).empty


def test_win_rates_are_of_any_two_that_were_voted_on(store: Store) -> None:
    told: list[Vote] = [
        store.vote(f"{place}", {"1": "a", "2": "b", "base": "c"}, best)
        for place, best in enumerate(["1", "1", "1", "2", "base", None])
    ]
    told.append(store.vote("the same", {"1": "a", "2": "a"}, "1"))
    told.append(store.vote("two others", {"8": "a", "9": "b"}, "8"))
    first, *others = votes.win_rates(told, {"calm": "1", "short": "2", "base": "base", "new": "3"})
    assert first[:6] == ("calm", "short", 3, 4, 2, 0.75)
    assert first[6:] == (pytest.approx(0.3006, abs=1e-4), pytest.approx(0.9544, abs=1e-4))
    assert [one[:6] for one in others] == [("calm", "base", 3, 4, 1, 0.75), ("short", "base", 1, 2, 1, 0.5)]
    assert votes.win_rates(told[5:6], {"a": "1", "b": "2"}) == [("a", "b", 0, 0, 1, None, None, None)]


def test_a_cell_learns_from_the_variable_that_holds_the_votes(
    shell: InteractiveShell, base: Path, store: Store
) -> None:
    for number in range(12):
        store.vote(f"How much is {number} and 1?", {"a": f"{number + 1}.", "base": f"It is {number + 1}, yes."}, "a")
    shell.user_ns["votes"] = peft_nb.votes(store=store)
    fields = f"model: {base}\nmax_steps: 1\nbatch_size: 2\ndevice: cpu\njudge: off\neval_fraction: 0\n"
    shell.run_cell(f"%%peft lora --task dpo --data votes --out run\n{fields}").raise_error()
    run = shell.user_ns["run"]
    assert (run.status, run.spec.task) == ("finished", "dpo")
    assert run.history["loss"].iloc[-1] == pytest.approx(math.log(2), abs=1e-3)

"""What people said of answers, kept and given back."""

from __future__ import annotations

import time

import pytest

from peft_nb.errors import StoreError
from peft_nb.store import Store, Vote
from peft_nb.store.votes import feedback, pairs, rated
from tests.stores import finish

ANSWERS = {"lora-1": "one\n\x00", "base": "two \ud800"}
TALK = [{"role": "user", "content": "Hi"}]


def test_votes_are_kept_across_processes_and_replaced_on_the_same_answers(store: Store) -> None:
    began = time.time()
    first = store.vote("Hello", ANSWERS, "base")
    other = store.vote(TALK, {"lora-1": "yes"}, None)
    assert first == Vote("Hello", ANSWERS, "base", first.at)
    assert began <= first.at.timestamp() <= other.at.timestamp() <= time.time()
    assert Store(store.folder).votes() == [first, other]
    again = store.vote("Hello", dict(reversed(ANSWERS.items())), None)
    drawn = store.vote("Hello", {**ANSWERS, "base": "three"}, "lora-1")
    assert [(vote.prompt, vote.best) for vote in store.votes()] == [(TALK, None), ("Hello", None), ("Hello", "lora-1")]
    assert first.key == again.key != drawn.key


def test_votes_stay_where_a_run_is_removed(store: Store) -> None:
    id = finish(store)
    store.vote("Hello", {id: "Hi", "base": "Ho"}, id)
    store.remove(id)
    assert [row["chosen"] for row in pairs(store.votes())] == ["Hi"]


def test_pairs_leave_out_ties_and_answers_that_teach_nothing(store: Store) -> None:
    votes = [
        store.vote("tie", {"a": "x", "b": "y"}, None),
        store.vote("the same twice", {"a": "x", "b": "y", "c": "y ", "d": "x"}, "a"),
        store.vote("nothing said", {"a": "x", "b": " "}, "a"),
        store.vote("nothing chosen", {"a": "", "b": "y"}, "a"),
        store.vote("thumb", {"a": "x"}, "a"),
    ]
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in pairs(votes)] == [("the same twice", "x", "y")]
    assert [(row["prompt"], row["completion"], row["label"]) for row in rated(votes)] == [("thumb", "x", True)]


def test_a_store_that_is_closed_refuses_a_vote(store: Store) -> None:
    store.close()
    with pytest.raises(StoreError, match="cannot use"):
        store.vote("Hello", ANSWERS, None)


def test_thumbs_and_edits_of_an_answer_become_one_row(store: Store) -> None:
    store.vote("Hi", {"a": "x"}, "a")
    store.vote("Hi", {"a": "x", "edit": "y"}, "edit")
    store.vote("Hi", {"a": "x", "b": "z"}, "a")  # a comparison says nothing of one answer
    store.vote(TALK, {"b": "x", "edit": "w"}, "edit")
    last = store.vote(TALK, {"b": "x", "edit": "v"}, "edit")
    first, second = feedback(store.votes())
    assert first == {"prompt": "Hi", "answer": "x", "thumb": True, "edited": "y", "run": "a", "time": first["time"]}
    assert second == {"prompt": TALK, "answer": "x", "thumb": None, "edited": "v", "run": "b", "time": last.at}
    assert {(row["chosen"], row["rejected"]) for row in pairs(store.votes())} >= {("y", "x"), ("v", "x")}
    assert [row["completion"] for row in rated(store.votes())] == ["x"]

from __future__ import annotations

from collections.abc import Callable

import pytest

import peft_nb
from peft_nb import Run
from peft_nb.data import detection, sources
from peft_nb.errors import DataError, StoreError
from peft_nb.store import Store
from tests.stores import finish


@pytest.fixture
def rated(store: Store) -> Store:
    """Two versions whose answers were judged."""
    first, second = finish(store, "tickets"), finish(store, "tickets")
    store.vote("Where is it?", {first: "There."}, None)
    store.vote("Where is it?", {first: "There.", "edit": "In the post."}, "edit")
    store.vote("Who are you?", {second: "A model."}, second)
    return store


def test_all_feedback_is_given_with_the_version_that_answered(rated: Store) -> None:
    found = peft_nb.feedback(store=rated)
    assert list(found) == ["prompt", "answer", "thumb", "edited", "version", "run", "time"]
    assert found[["answer", "thumb", "version"]].values.tolist() == [
        ["There.", False, "tickets v1"],
        ["A model.", True, "tickets v2"],
    ]
    assert (found.edited[0], list(found.edited.isna())) == ("In the post.", [False, True])
    assert list(peft_nb.feedback("tickets", store=rated).answer) == ["A model."]
    assert "In the post." in found._repr_html_()


def test_rows_are_learned_from_as_they_are(rated: Store) -> None:
    kinds = {}
    for task in ("kto", "dpo", "generation"):
        read = sources.read(peft_nb.feedback(for_=task, store=rated)).train
        layout = detection.detect(read)
        kinds[task] = layout.kind, [layout.messages(row)[-1]["content"] for row in read]
    assert kinds == {
        "kto": ("rated", ["There.", "A model."]),
        "dpo": ("preference", ["In the post."]),
        "generation": ("chat", ["In the post.", "A model."]),
    }


def test_what_there_is_not_is_one_line(rated: Store) -> None:
    with pytest.raises(DataError, match="dp: not one of kto, dpo, generation; did you mean 'dpo'"):
        peft_nb.feedback(for_="dp", store=rated)
    with pytest.raises(StoreError, match="nobody"):
        peft_nb.feedback("nobody", store=rated)
    assert peft_nb.feedback(for_="dpo", store=Store(rated.folder / "empty")).empty


def test_edits_in_a_chat_come_back_as_pairs(start: Callable[..., Run]) -> None:
    run = start(max_steps=1, name="calm").wait()
    talk = peft_nb.chat(run)
    for prompt in ("Hello", "Where is it?"):
        talk.ask(prompt, max_new_tokens=4)
        talk.edit(f"{prompt} A better answer.")
        talk.clear()
    rows = peft_nb.feedback(run, for_="dpo")
    assert list(rows.chosen) == ["Hello A better answer.", "Where is it? A better answer."]
    assert {*rows.version} == {"calm v1"}
    assert detection.detect(sources.read(rows).train).kind == "preference"

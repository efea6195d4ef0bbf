"""Runs found by a word, and whether a process is at work on them."""

from __future__ import annotations

import pytest

from peft_nb.errors import StoreError
from peft_nb.events import Notice
from peft_nb.store import Store, records
from peft_nb.system import files
from tests.stores import finish, new


def test_a_name_means_its_newest_run_and_an_id_exactly_one(store: Store) -> None:
    first, second = new(store, "tickets"), new(store, "tickets")
    shadow = new(store, first)  # a run that is named like the id of another
    assert store.get("tickets").id == second
    assert store.get(first).id == first
    assert [record.id for record in store.all()] == [shadow, second, first]


def test_an_unknown_run_is_refused_with_the_nearest(store: Store) -> None:
    id = new(store, "tickets")
    with pytest.raises(StoreError, match=r"there is no run 'tickts' in .*; did you mean 'tickets'\?"):
        store.get("tickts")
    for use in (
        lambda: store.events("lora-000000"),
        lambda: store.history("lora-000000"),
        lambda: store.record("lora-000000", Notice("")),
        lambda: store.set_metrics("lora-000000", {}),
        lambda: store.claim("lora-000000"),
    ):
        with pytest.raises(StoreError, match=r"there is no run 'lora-000000'"):
            use()
    assert store.events(id) == store.history(id) == []


@pytest.mark.parametrize(
    "word", ["tickets@v9", "tickets@productoin", "tickets@", "@v1", "tickets@v99999999999999999999"]
)
def test_a_version_or_alias_that_is_not_there_is_refused_with_the_nearest(store: Store, word: str) -> None:
    store.promote(finish(store, "tickets"), "production", why="first")
    hint = r"did you mean 'tickets@.*'\?|%peft runs lists them"
    with pytest.raises(StoreError, match=rf"there is no run '.*@.*' in [^;]*; ({hint})$"):
        store.get(word)


def test_a_run_of_another_host_counts_as_ended_after_a_long_silence(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = new(store)
    monkeypatch.setattr(files, "_host", lambda: "elsewhere")  # from here on this process is another host's
    files._owner.cache_clear()
    assert store.get(id).status == "created"
    with pytest.raises(StoreError, match="is in use by process"):
        store.claim(id)
    monkeypatch.setattr(records, "SILENCE_S", 0)
    assert (store.get(id).status, store.get(id).reason) == ("stopped", "interrupted (kernel died)")
    store.claim(id)
    monkeypatch.undo()
    files._owner.cache_clear()

from __future__ import annotations

import pytest

from peft_nb.errors import StoreError
from peft_nb.store import Store
from tests.stores import finish, new


def test_tags_change_nothing_of_what_a_run_is(store: Store) -> None:
    id = finish(store, "tickets")
    before = store.lineage(id)
    assert store.tag(id, "long", "baseline", "long").tags == ("baseline", "long")
    assert store.tag("tickets@v1", "long").tags == store.get(id).tags
    after = store.lineage(id)
    assert (after.spec_hash, after.files, after.damage) == (before.spec_hash, before.files, {})
    assert store.get(id).spec_yaml == before.record.spec_yaml
    assert store.untag(id, "long").tags == ("baseline",)


def test_a_run_has_tags_from_its_first_moment_and_they_go_with_it(store: Store) -> None:
    first, second = new(store), new(store)
    store.tag(first, "b")
    store.tag(second, "a", "b")
    assert store.tags() == ["a", "b"]
    other = finish(store)
    store.tag(other, "c")
    store.remove(other)
    assert store.tags() == ["a", "b"]
    assert store.lineage(other).record.tags == ()


@pytest.mark.parametrize("tag", ["", "two words", "a,b", "tag:a", "x" * 65, "..", ["a"]])
def test_what_is_no_tag_is_refused_with_all_that_came_with_it(store: Store, tag: str) -> None:
    id = new(store)
    with pytest.raises(StoreError, match="cannot be a tag; use up to 64 letters, digits"):
        store.tag(id, "good", tag)
    assert store.get(id).tags == ()


def test_what_a_run_has_not_cannot_be_taken_off(store: Store) -> None:
    id = new(store)
    with pytest.raises(StoreError, match=f"run {id} has no tag 'long'; it has none"):
        store.untag(id, "long")
    store.tag(id, "baseline", "short")
    with pytest.raises(StoreError, match="has no tag 'basline'; did you mean 'baseline'"):
        store.untag(id, "short", "basline")
    with pytest.raises(StoreError, match="has no tag 'x'; it has baseline, short"):
        store.untag(id, "x")
    assert store.get(id).tags == ("baseline", "short")

"""Where a run came from, told years later."""

from __future__ import annotations

import pytest

from peft_nb.errors import StoreError
from peft_nb.store import Facts, Store
from peft_nb.store.connection import sha256
from tests.stores import finish


def test_a_run_keeps_where_it_came_from_whatever_is_measured_later(store: Store) -> None:
    facts = Facts(base="smollm2 (hub) 1a2b", base_hash="ab" * 32, data="rows.csv", fingerprint="cd" * 32)
    id = finish(store, "tickets", facts=facts)
    store.set_facts(id, Facts(base="another", fingerprint="ee"))
    found = store.lineage("tickets")
    assert (found.base, found.base_hash) == ("smollm2 (hub) 1a2b", "ab" * 32)
    assert (found.data, found.data_fingerprint) == ("rows.csv", "cd" * 32)
    assert found.spec_hash == sha256("r: 16\n")
    assert found.package_versions == store.get(id).package_versions
    assert found.files["adapter_model.safetensors"] == sha256("weights")
    assert (found.parents, found.children, found.evaluations) == ([], [], [])


def test_parents_and_children_are_found_over_generations(store: Store) -> None:
    grandparent, other = finish(store, "tickets"), finish(store, "desk")
    parent = store.create("", method="lora", model="m", parents=[grandparent, other])
    child = store.create("", method="lora", model="m", parents=[parent])
    (up,) = store.lineage(child).parents
    assert [one.record.id for one in up.parents] == sorted([grandparent, other])
    assert [record.id for record in store.lineage("desk").children] == [parent]
    with pytest.raises(StoreError, match="there is no run 'lora-000000'"):
        store.create("", method="lora", model="m", parents=["lora-000000"])
    assert len(store.all()) == 4


def test_a_file_changed_on_purpose_is_sealed_anew_and_logged(store: Store) -> None:
    id = finish(store, "tickets")
    (store.folder_of(id) / "adapter" / "README.md").write_text("now with a verdict")
    store.seal(id, why="the card tells the verdict")
    store.seal(id, why="nothing new")
    assert store.verify(id) == {}
    assert list(store.lineage(id).files) == ["README.md", "adapter_model.safetensors", "deep/adapter_config.json"]
    assert [(entry.action, entry.why) for entry in store.log(id)][:-1] == [("seal", "the card tells the verdict")]

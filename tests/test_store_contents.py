"""Files that are no longer what they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from peft_nb.errors import RunError, StoreError
from peft_nb.store import Store, contents
from peft_nb.store.connection import sha256
from tests.stores import finish


def test_a_changed_or_missing_file_is_found_and_not_promoted(store: Store) -> None:
    id = finish(store, "tickets")
    adapter = store.folder_of(id) / "adapter"
    assert store.verify(id) == {}
    (adapter / "adapter_model.safetensors").write_text("Weights")
    (adapter / "deep" / "adapter_config.json").unlink()
    damage = {"adapter_model.safetensors": "changed", "deep/adapter_config.json": "missing"}
    assert store.verify("tickets") == store.lineage(id).damage == damage
    with pytest.raises(
        RunError, match=r"adapter_model.safetensors is changed; deep/adapter_config.json is missing; add"
    ):
        store.promote(id, "production", why="better")
    store.promote(id, "production", why="it is meant to be so", force=True)
    assert store.log()[0].forced == "adapter_model.safetensors is changed; deep/adapter_config.json is missing"


def test_every_file_below_a_folder_is_hashed_and_compared(tmp_path: Path) -> None:
    assert contents.hashes(tmp_path / "nowhere") == {}
    (tmp_path / "deep").mkdir()
    for path, text in {"b": "two", "deep/c": "three", "a": "one"}.items():
        (tmp_path / path).write_text(text)
    known = contents.hashes(tmp_path)
    assert list(known.items()) == [("a", sha256("one")), ("b", sha256("two")), ("deep/c", sha256("three"))]
    assert contents.damage(tmp_path, known) == {}
    (tmp_path / "new").touch()  # what is not known cannot be damaged
    (tmp_path / "deep" / "c").write_text("3")
    (tmp_path / "b").unlink()
    assert contents.damage(tmp_path, known) == {"b": "missing", "deep/c": "changed"}


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/proc/self/mem")  # a file whose beginning nobody may read
    with pytest.raises(StoreError, match=rf"^cannot read {tmp_path}[^;]*: [^;]*; check its permissions$"):
        contents.hashes(tmp_path)
    assert contents.damage(tmp_path, {"a": "00"}) == {"a": "unreadable"}

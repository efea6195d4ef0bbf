"""Encoded rows stay while a run uses them; what is removed has left the disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peft_nb.errors import RunError
from peft_nb.events import Sampled
from peft_nb.runs.run import Run, begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests import stores

Describe = Callable[..., RunSpec]


def encoded(store: Store) -> set[str]:
    return {path.name for path in (store.folder / "examples").glob("[!.]*")}


def rows_of(store: Store, id: str, *keys: str, regression: str | None = None) -> None:
    """Give a run encoded rows, of 1,000 bytes each."""
    for key in filter(None, (*keys, regression)):
        (store.folder / "examples" / key).mkdir(parents=True, exist_ok=True)
        (store.folder / "examples" / key / "ids.npy").write_bytes(b"1" * 1000)
    folder = store.folder_of(id)
    (folder / "examples.json").write_text(json.dumps({"keys": keys, "held_out": []}))
    (folder / "judging.json").write_text(json.dumps({"asked": [], "regression": regression}))


def test_rows_go_with_the_last_run_that_uses_them(store: Store) -> None:
    first, second = stores.finish(store), stores.finish(store)
    rows_of(store, first, "a", "b", regression="c")
    rows_of(store, second, "b")
    store.remove(first)
    assert encoded(store) == {"b"}
    store.remove(second)
    assert encoded(store) == set()


def test_what_no_run_uses_is_measured_and_cleared(store: Store) -> None:
    id = stores.finish(store)
    rows_of(store, id, "a")
    (store.folder / "examples" / "orphan").mkdir()
    (store.folder / "examples" / "orphan" / "ids.npy").write_bytes(b"1" * 500)
    room = store.space()
    assert (room.rows - room.unused >= 1000, room.unused, room.runs > 0) == (True, 500, True)
    active = store.create("", method="lora", model="m")
    with pytest.raises(RunError, match=rf"^run {active} is created and may be encoding rows; wait until it trains$"):
        store.clear()
    store.record(active, stores.StatusChanged("training"))
    assert store.clear() == 500
    assert encoded(store) == {"a"}
    assert store.clear() == store.space().unused == 0


def test_nothing_of_the_rows_is_left_of_a_run_that_is_removed(
    spec: Describe, rows: list[dict[str, str]], store: Store
) -> None:
    def secret(word: str) -> list[dict[str, Any]]:
        return [{"question": f"{row['question']} {word}?", "answer": f"{row['answer']} {word}."} for row in rows]

    names = {"held": secret("Quixotlheld"), "old": secret("Quixotlold")}
    given = {"regression": "old", "eval_data": "held", "judge": "full", "max_steps": 2}
    run: Run = begin(spec(**given), data=secret("Quixotldata"), namespace=names, store=store).wait()
    store.record(run.id, Sampled(2, "Quixotlprompt", "Quixotlwanted", "Quixotlanswer"))
    assert {"Quixotlheld", "Quixotlprompt"} <= found(store.folder)
    assert encoded(store)
    run.record.store.remove(run.id)
    assert found(store.folder) == set()
    assert encoded(store) == set()


def found(folder: Path) -> set[str]:
    """Which of the words stand in any file below a folder, the index and its log included."""
    words = [f"Quixotl{end}" for end in ("data", "held", "old", "prompt", "wanted", "answer")]
    contents = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return {word for word in words if any(word.encode() in content for content in contents)}

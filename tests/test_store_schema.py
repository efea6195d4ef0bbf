"""Stores of earlier versions, opened by this one."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from peft_nb.events import StatusChanged
from peft_nb.store import HISTORY, Facts, Store

RELEASED = Path(__file__).parent / "data" / "store-0.1.0.zip"
FINISHED = {"desk@v1": "lora-684fae", "kinds@v1": "lora-ae10db"}
REMOVED = {"lora-592ba7", "lora-0ccaa6"}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give what peft_nb 0.1.0 wrote: a store, the bases and rows of its runs, and what it said of them."""
    folder = tmp_path_factory.mktemp("released")
    with zipfile.ZipFile(RELEASED) as file:
        file.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def told(unpacked: Path) -> dict[str, Any]:
    return json.loads((unpacked / "told.json").read_text())


@pytest.fixture
def store(unpacked: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(unpacked / "store", tmp_path / "store"))


def test_every_run_of_the_released_store_is_there_with_all_that_was_known_of_it(
    store: Store, told: dict[str, Any]
) -> None:
    records = {record.id: record for record in store.all()}
    assert records.keys() == told["metrics"].keys()
    for id, record in records.items():
        facts = {name: value for name, value in asdict(record.facts).items() if name != "task"}
        assert all(facts.values())
        known = [*facts, *record.facts.task, *record.metrics]
        assert len(known) == len(set(known))
        assert facts | record.facts.task | record.metrics == told["metrics"][id]
    classifies = {told["classification"], told["stopped_classification"]}
    for id, record in records.items():
        task = {"classes", "multi_label", "max_tokens", "pooling"} if id in classifies else set()
        assert record.facts.task.keys() == task
        assert record.facts.task.get("multi_label", False) is False
    assert records[told["stopped_generation"]].status == records[told["stopped_classification"]].status == "stopped"
    assert {record.id for record in records.values() if record.status == "finished"} == {
        told["generation"], told["classification"], told["bitfit"],
    }  # fmt: skip


def test_versions_aliases_and_the_log_of_the_released_store_stand(store: Store) -> None:
    assert {word: store.get(word).id for word in FINISHED} == FINISHED
    assert store.aliases() == ["desk@production"]
    assert store.get("desk@production").aliases == ("production",)
    assert [(entry.action, entry.run, entry.name, entry.version, entry.alias, entry.why) for entry in store.log()] == [
        ("remove", "lora-0ccaa6", None, None, None, ""),
        ("remove", "lora-592ba7", None, None, None, ""),
        ("version", "lora-ae10db", "kinds", 1, None, ""),
        ("promote", "lora-684fae", "desk", 1, "production", "the first one"),
        ("version", "lora-684fae", "desk", 1, None, ""),
    ]
    for id in REMOVED:
        assert store.lineage(id).record.removed
        assert store.lineage(id).record.facts.base == store.lineage(id).base


def test_what_happened_in_the_released_store_is_told_as_before(store: Store, told: dict[str, Any]) -> None:
    counts = {"lora-684fae": 26, "lora-ae10db": 54, "lora-b0c5b9": 21, "lora-66d717": 20, "bitfit-d00ae1": 24}
    assert {record.id: len(store.events(record.id)) for record in store.all()} == counts
    for record in store.all():
        ends = [event.status for event in store.events(record.id) if isinstance(event, StatusChanged)]
        assert ends[-1] == record.status
        rows, metrics = store.history(record.id), told["metrics"][record.id]
        assert list(rows[0]) == HISTORY.split(", ")
        assert [row["step"] for row in rows] == list(range(metrics["steps"] + 1))
        measured = [row["eval_loss"] for row in rows if row["eval_loss"] is not None]
        assert (measured[0], measured[-1]) == (metrics["base_eval_loss"], metrics["eval_loss"])
    assert [row["loss"] for row in store.history(told["generation"])[1:]] == told["losses_generation"]


def test_evaluations_origins_and_files_of_the_released_store_are_kept(store: Store, told: dict[str, Any]) -> None:
    for record in store.all():
        metrics, found = told["metrics"][record.id], store.lineage(record.id)
        assert (found.base, found.base_hash) == (metrics["base"], metrics["base_hash"])
        assert (found.data, found.data_fingerprint) == (metrics["data"], metrics["fingerprint"])
        assert found.files
        assert found.damage == {}
        measured = {one.measure: one.value for one in store.evaluations(record.id)}
        assert bool(measured) == (record.status == "finished")
        assert {name: metrics[name] for name in measured if name in metrics} == {
            name: value for name, value in measured.items() if name in metrics
        }
    assert store.verify("desk") == store.verify("kinds") == {}
    assert len(store.evaluations("lora-684fae")) > 5


def test_the_released_store_is_brought_up_to_date_once(store: Store) -> None:
    store.set_facts("lora-684fae", Facts(base="another"))
    store.set_metrics("lora-684fae", {"base": "what this version measures"})
    again = Store(store.folder).get("lora-684fae")
    assert (again.facts, again.metrics["base"]) == (Facts(base="another"), "what this version measures")

"""Indexes of earlier versions, brought up to date."""

from __future__ import annotations

import json
import shutil
import sqlite3
import zipfile
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from peft_nb.errors import StoreError
from peft_nb.events import Notice, StatusChanged
from peft_nb.store import HISTORY, Facts, Store, schema
from peft_nb.store.connection import sha256
from tests.conftest import Python
from tests.stores import ask, finish, new

ZIPPED = Path(__file__).parent / "data" / "store-0.1.0.zip"
FINISHED = {"desk@v1": "lora-684fae", "kinds@v1": "lora-ae10db"}
REMOVED = {"lora-592ba7", "lora-0ccaa6"}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give what peft_nb 0.1.0 wrote: a store, the bases and rows of its runs, and what it said of them."""
    folder = tmp_path_factory.mktemp("released")
    with zipfile.ZipFile(ZIPPED) as file:
        file.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def told(unpacked: Path) -> dict[str, Any]:
    return json.loads((unpacked / "told.json").read_text())


@pytest.fixture
def released(unpacked: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(unpacked / "store", tmp_path / "store"))


def test_every_run_of_the_released_store_is_there_with_all_that_was_known_of_it(
    released: Store, told: dict[str, Any]
) -> None:
    records = {record.id: record for record in released.all()}
    assert records.keys() == told["metrics"].keys()
    for id, record in records.items():
        newer = ("task", "init_adapter", "place", "documents")
        facts = {name: value for name, value in asdict(record.facts).items() if name not in newer}
        assert all(facts.values())
        assert record.facts.init_adapter is None
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


def test_versions_aliases_and_the_log_of_the_released_store_stand(released: Store) -> None:
    assert {word: released.get(word).id for word in FINISHED} == FINISHED
    assert released.aliases() == ["desk@production"]
    assert released.get("desk@production").aliases == ("production",)
    assert [
        (entry.action, entry.run, entry.name, entry.version, entry.alias, entry.why) for entry in released.log()
    ] == [
        ("remove", "lora-0ccaa6", None, None, None, ""),
        ("remove", "lora-592ba7", None, None, None, ""),
        ("version", "lora-ae10db", "kinds", 1, None, ""),
        ("promote", "lora-684fae", "desk", 1, "production", "the first one"),
        ("version", "lora-684fae", "desk", 1, None, ""),
    ]
    for id in REMOVED:
        assert released.lineage(id).record.removed
        assert released.lineage(id).record.facts.base == released.lineage(id).base


def test_what_happened_in_the_released_store_is_told_as_before(released: Store, told: dict[str, Any]) -> None:
    counts = {"lora-684fae": 26, "lora-ae10db": 54, "lora-b0c5b9": 21, "lora-66d717": 20, "bitfit-d00ae1": 24}
    assert {record.id: len(released.events(record.id)) for record in released.all()} == counts
    for record in released.all():
        ends = [event.status for event in released.events(record.id) if isinstance(event, StatusChanged)]
        assert ends[-1] == record.status
        rows, metrics = released.history(record.id), told["metrics"][record.id]
        assert list(rows[0]) == HISTORY.split(", ")
        assert [row["step"] for row in rows] == list(range(metrics["steps"] + 1))
        measured = [row["eval_loss"] for row in rows if row["eval_loss"] is not None]
        assert (measured[0], measured[-1]) == (metrics["base_eval_loss"], metrics["eval_loss"])
    assert [row["loss"] for row in released.history(told["generation"])[1:]] == told["losses_generation"]


def test_evaluations_origins_and_files_of_the_released_store_are_kept(released: Store, told: dict[str, Any]) -> None:
    for record in released.all():
        metrics, found = told["metrics"][record.id], released.lineage(record.id)
        assert (found.base, found.base_hash) == (metrics["base"], metrics["base_hash"])
        assert (found.data, found.data_fingerprint) == (metrics["data"], metrics["fingerprint"])
        assert found.files
        assert found.damage == {}
        measured = {one.measure: one.value for one in released.evaluations(record.id)}
        assert bool(measured) == (record.status == "finished")
        assert {name: metrics[name] for name in measured if name in metrics} == {
            name: value for name, value in measured.items() if name in metrics
        }
    assert released.verify("desk") == released.verify("kinds") == {}
    assert len(released.evaluations("lora-684fae")) > 5


def test_runs_of_the_released_store_can_be_tagged(released: Store) -> None:
    assert released.tags() == []
    assert {record.tags for record in released.all()} == {()}
    assert released.tag("desk", "baseline").tags == Store(released.folder).get("desk@v1").tags == ("baseline",)


def test_the_released_store_is_brought_up_to_date_once(released: Store) -> None:
    released.set_facts("lora-684fae", Facts(base="another"))
    released.set_metrics("lora-684fae", {"base": "what this version measures"})
    again = Store(released.folder).get("lora-684fae")
    assert (again.facts, again.metrics["base"]) == (Facts(base="another"), "what this version measures")


# What the first release of the store wrote.
OLD = """
    CREATE TABLE runs (
        id TEXT PRIMARY KEY, name TEXT, method TEXT NOT NULL, model TEXT NOT NULL, created REAL NOT NULL,
        status TEXT NOT NULL DEFAULT 'created', reason TEXT NOT NULL DEFAULT '',
        spec_yaml TEXT NOT NULL, metrics TEXT NOT NULL DEFAULT '{}', package_versions TEXT NOT NULL, owner TEXT
    );
    CREATE TABLE events (
        id INTEGER PRIMARY KEY, run TEXT NOT NULL REFERENCES runs, n INTEGER NOT NULL, at REAL NOT NULL,
        kind TEXT NOT NULL, fields TEXT NOT NULL, UNIQUE (run, n)
    );
    CREATE TABLE history (
        run TEXT NOT NULL REFERENCES runs, step INTEGER NOT NULL, epoch REAL, loss REAL, eval_loss REAL,
        learning_rate REAL, grad_norm REAL, tokens_per_second REAL, memory_mb REAL, elapsed_s REAL,
        PRIMARY KEY (run, step)
    ) WITHOUT ROWID;
    INSERT INTO runs VALUES
        ('lora-aaaaaa', 'tickets', 'lora', 'm', 1e9, 'finished', '', 'r: 8', '{"base": "m 1a2b", "fingerprint": "ff"}',
         '{"peft": "0.20"}', NULL),
        ('lora-bbbbbb', NULL, 'lora', 'm', 1e9, 'finished', '', 'r: 8', '{}', '{}', NULL),
        ('lora-cccccc', 'tickets', 'lora', 'm', 1e9, 'stopped', 'after step 3', 'r: 8',
         '{"data": null, "classes": ["caf\u00e9", "a, b"], "multi_label": true, "eval_loss": null}', '{}', NULL),
        ('lora-dddddd', 'tickets', 'lora', 'm', 1e9, 'finished', '', 'r: 16', '{}', '{}', NULL);
    INSERT INTO events VALUES (1, 'lora-aaaaaa', 1, 1e9, 'Notice', '{"text": "kept"}');
    PRAGMA user_version = 1;
"""


def test_an_older_index_is_brought_up_to_date(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    id = new(store, "tickets")
    script = "ALTER TABLE runs ADD COLUMN note TEXT; CREATE TABLE notes (alias TEXT, run TEXT);"
    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, script])
    newer = Store(store.folder)
    assert newer.get("tickets").id == id
    assert ask(store, "PRAGMA user_version") == [(len(schema.MIGRATIONS),)]
    assert ask(store, "SELECT * FROM notes") == []
    Store(store.folder)


def test_a_failed_migration_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    id = new(store)
    script = "CREATE TABLE notes (alias TEXT); CREATE TABLE runs (again TEXT);"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, script])
        with pytest.raises(StoreError, match="table runs already exists"):
            Store(store.folder)
    assert Store(store.folder).get(id).id == id


def test_an_index_of_a_newer_version_is_refused(store: Store) -> None:
    ask(store, "PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="was made by a newer peft_nb; upgrade"):
        Store(store.folder)


def test_an_index_of_the_first_kind_is_brought_up_to_date_by_two_at_once(tmp_path: Path, python: Python) -> None:
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as old:
        old.executescript(OLD)
    for id in "abcd":
        (tmp_path / "runs" / f"lora-{id * 6}" / "adapter").mkdir(parents=True)
        (tmp_path / "runs" / f"lora-{id * 6}" / "adapter" / "weights").write_text("w")
    code = "import sys; from peft_nb.store import Store; print(Store(sys.argv[1]).get('tickets@v2').id)"
    processes = [python("-c", code, tmp_path) for _ in range(2)]
    assert [process.communicate()[0] for process in processes] == ["lora-dddddd\n"] * 2
    store = Store(tmp_path)
    assert [record.title for record in store.all()] == ["tickets v2", "lora-cccccc", "lora-bbbbbb", "tickets v1"]
    assert store.events("lora-aaaaaa") == [Notice("kept")]
    assert store.get("lora-aaaaaa").facts == Facts(base="m 1a2b", fingerprint="ff")
    assert store.get("lora-bbbbbb").facts == Facts()
    assert store.get("lora-cccccc").facts == Facts(task={"classes": ["café", "a, b"], "multi_label": True})
    assert [store.get(f"lora-{id * 6}").metrics for id in "abc"] == [{}, {}, {"eval_loss": None}]
    first = store.lineage("tickets@v1")
    assert (first.base, first.data_fingerprint, first.spec_hash) == ("m 1a2b", "ff", sha256("r: 8"))
    assert (first.package_versions, first.files) == ({"peft": "0.20"}, {})
    store.promote("tickets@v1", "production", why="it has served for years")
    assert store.lineage("tickets@production").files == {"weights": sha256("w")}
    assert finish(store, "tickets") == store.get("tickets@v3").id


def test_a_script_is_taken_apart_at_the_ends_of_its_statements() -> None:
    trigger = "CREATE TRIGGER t BEFORE DELETE ON a BEGIN SELECT RAISE (ABORT, 'no; never'); SELECT 1; END;"
    *parts, empty = (part.strip() for part in schema.statements(f"CREATE TABLE a (b);\n{trigger}\nDROP TABLE a;\n"))
    assert (parts, empty) == (["CREATE TABLE a (b);", trigger, "DROP TABLE a;"], ";")

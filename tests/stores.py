"""Runs in a store as training leaves them, made in a millisecond, and processes that work on one store."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from peft_nb.events import StatusChanged, StepLogged
from peft_nb.store import Facts, Store

REPO = Path(__file__).parents[1]
PRELUDE = """if True:
        import sys, time
        from peft_nb.events import *
        from peft_nb.store import Store
        store = Store(sys.argv[1])
"""


def new(store: Store, name: str | None = None) -> str:
    """Enter a run and give its id."""
    return store.create("r: 16\n", method="lora", model="smollm2-135m", name=name)


def finish(
    store: Store, name: str | None = None, spec_yaml: str = "r: 16\n", facts: Facts | None = None, **metrics: Any
) -> str:
    """End a run that has an adapter, and give its id."""
    id = store.create(spec_yaml, method="lora", model="smollm2-135m", name=name)
    (store.folder_of(id) / "adapter" / "deep").mkdir(parents=True)
    for path in ("adapter_model.safetensors", "deep/adapter_config.json"):
        (store.folder_of(id) / "adapter" / path).write_text("weights")
    if facts:
        store.set_facts(id, facts)
    if metrics:
        store.set_metrics(id, metrics)
    store.record(id, StatusChanged("finished"))
    return id


def step(n: int, loss: float = 2.0) -> StepLogged:
    """Give what training logs at a step."""
    return StepLogged(n, n / 10, loss, 2e-4, 0.5, 900.0, 1500.0, 0.3 * n)


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run code in a process of its own, on the store whose folder is the first argument."""
    command = [sys.executable, "-c", PRELUDE + code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    """Wait for the next line that a process prints."""
    assert process.stdout
    return process.stdout.readline().strip()


def ask(store: Store, query: str) -> list[tuple[Any, ...]]:
    """Ask the index file itself."""
    with closing(sqlite3.connect(store.folder / "index.sqlite")) as connection, connection:
        return connection.execute(query).fetchall()


def assert_sound(store: Store) -> None:
    """Check that index, folders and log tell one story."""
    assert ask(store, "PRAGMA integrity_check") == [("ok",)]
    assert ask(store, "PRAGMA foreign_key_check") == []
    there = {record.id: record for record in store.all()}
    assert {path.name for path in (store.folder / "runs").iterdir()} >= set(there)
    assert not [path for path in (store.folder / "runs").iterdir() if path.name.startswith(".")]
    gone = {id for (id,) in ask(store, "SELECT id FROM runs WHERE removed IS NOT NULL")}
    assert not [id for id in gone if store.folder_of(id).exists()]
    for (name,) in ask(store, "SELECT DISTINCT name FROM versions"):
        numbers = [n for (n,) in ask(store, f"SELECT number FROM versions WHERE name = '{name}' ORDER BY number")]
        assert numbers == list(range(1, len(numbers) + 1))
    for record in there.values():
        assert (record.status == "finished") == (record.version is not None)
        assert store.verify(record.id) == {}
        assert len(store.lineage(record.id).files) == (2 if record.version else 0)
    holds: dict[str, int | None] = {}
    entered = []
    for entry in reversed(store.log()):
        if entry.alias and entry.share:
            continue  # the alias holds what it held
        if entry.alias:
            word = f"{entry.name}@{entry.alias}"
            assert holds.get(word) == entry.before
            holds[word] = entry.version
        elif entry.action == "version":
            entered.append(entry.run)
        else:
            assert entry.run in gone
    assert sorted(entered) == sorted(id for (id,) in ask(store, "SELECT run FROM versions"))
    assert {word: number for word, number in holds.items() if number} == {
        word: store.get(word).version for word in store.aliases()
    }

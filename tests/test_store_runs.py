"""Runs at work: entered, recorded event by event, taken up again."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from peft_nb.errors import StoreError
from peft_nb.events import Checkpointed, Evaluated, Event, Notice, Planned, Preparing, Resumed, StatusChanged
from peft_nb.store import HISTORY, Store
from tests.stores import line, new, start, step


def test_a_new_run_has_a_record_and_a_folder(store: Store) -> None:
    id = new(store, "tickets")
    record = store.get(id)
    assert id.startswith("lora-")
    assert (record.id, record.name, record.method, record.model) == (id, "tickets", "lora", "smollm2-135m")
    assert (record.status, record.reason, record.spec_yaml, record.metrics) == ("created", "", "r: 16\n", {})
    assert abs((datetime.now(UTC) - record.created).total_seconds()) < 10
    assert record.folder == store.folder_of(id) == store.folder / "runs" / id
    assert record.folder.is_dir()
    assert set(record.package_versions) <= {"torch", "transformers", "peft", "peft_nb"}
    assert "torch" in record.package_versions


def test_events_come_back_equal_and_in_order(store: Store) -> None:
    id, other = new(store), new(store)
    happened: list[Event] = [
        StatusChanged("preparing"),
        Preparing("loading the model"),
        Notice("row 3 was truncated: “é” 🦙"),
        Planned(10, 48, 5, 900, 4_884_480, 139_400_064, "float32", "cpu", "padding-free"),
        StatusChanged("training"),
        Evaluated(0, 3.25),
        step(1),
        Checkpointed(1, "checkpoint-1"),
        Resumed(1),
        StatusChanged("failed", "out of memory"),
    ]
    for event in happened:
        store.record(id, event)
        store.record(other, Notice("another run"))
    assert store.events(id) == happened
    assert Store(store.folder).events(id) == happened


def test_status_and_reason_follow_the_events(store: Store) -> None:
    id = new(store)
    store.record(id, StatusChanged("training"))
    assert store.get(id).status == "training"
    store.record(id, StatusChanged("stopped", "asked to"))
    assert (store.get(id).status, store.get(id).reason) == ("stopped", "asked to")


def test_history_has_one_row_a_step_with_the_evaluation_merged(store: Store) -> None:
    id = new(store)
    for event in (Evaluated(0, 3.5), step(2, 2.5), Evaluated(4, 2.25, 0.5), step(4, 2.0), step(6, math.nan)):
        store.record(id, event)
    rows = store.history(id)
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    assert [row["eval_loss"] for row in rows] == [3.5, None, 2.25, None]
    assert [row["loss"] for row in rows] == [None, 2.5, 2.0, None]
    assert list(rows[0]) == HISTORY.split(", ")
    assert rows[2] == {
        "step": 4, "epoch": 0.4, "loss": 2.0, "eval_loss": 2.25, "token_accuracy": 0.5,
        "learning_rate": 2e-4, "grad_norm": 0.5,
        "tokens_per_second": 900.0, "memory_mb": 1500.0, "host_memory_mb": None, "elapsed_s": 1.2,
    }  # fmt: skip


def test_of_a_gpu_the_memory_of_the_host_is_kept_too(store: Store) -> None:
    id = new(store)
    store.record(id, replace(step(2), host_memory_mb=900.0))
    assert [(row["memory_mb"], row["host_memory_mb"]) for row in store.history(id)] == [(1500.0, 900.0)]


def test_resuming_drops_the_rows_that_no_longer_hold(store: Store) -> None:
    id, other = new(store), new(store)
    for n in (1, 2, 3):
        store.record(id, step(n))
        store.record(other, step(n))
    store.record(id, Resumed(1))
    store.record(id, step(2, 1.5))
    assert [(row["step"], row["loss"]) for row in store.history(id)] == [(1, 2.0), (2, 1.5)]
    assert len(store.history(other)) == 3
    assert len(store.events(id)) == 5


def test_metrics_add_up_and_hold_only_finite_numbers(store: Store) -> None:
    numpy = pytest.importorskip("numpy")
    id = new(store)
    store.set_metrics(id, {"train_loss": 2.0, "eval_loss": math.nan, "verdict": "accepted"})
    store.set_metrics(id, {"train_loss": numpy.float32(1.5), "per_split": {"a": [math.inf, 1]}})
    assert store.get(id).metrics == {
        "train_loss": 1.5,
        "eval_loss": None,
        "verdict": "accepted",
        "per_split": {"a": [None, 1]},
    }


def test_recording_costs_less_than_a_millisecond(store: Store) -> None:
    id = new(store)
    seconds = []
    for n in range(300):
        began = time.perf_counter()
        store.record(id, step(n))
        seconds.append(time.perf_counter() - began)
    assert statistics.median(seconds) < 1e-3


def test_a_run_at_work_in_another_process_cannot_be_claimed(store: Store) -> None:
    id = new(store)
    store.record(id, StatusChanged("stopped", "asked to"))
    code = """
        store.claim(sys.argv[2])
        print("claimed", flush=True)
        sys.stdin.readline()
        store.record(sys.argv[2], StatusChanged("training"))
        store.record(sys.argv[2], StatusChanged("finished"))
        print("finished", flush=True)
        sys.stdin.readline()
    """
    with start(code, store.folder, id) as process:
        assert process.stdin
        assert line(process) == "claimed"
        with pytest.raises(StoreError, match=rf"run {id} is in use by process {process.pid} on .*; stop it"):
            store.claim(id)
        print("go on", file=process.stdin, flush=True)
        assert line(process) == "finished"
        store.claim(id)  # that process lives on, but is done with it
        print("go on", file=process.stdin, flush=True)


def test_a_run_whose_process_died_can_be_claimed_and_its_leftovers_go(store: Store) -> None:
    code = """
        from peft_nb.system.files import atomic_folder
        id = store.create("", method="lora", model="m")
        store.record(id, StatusChanged("training"))
        with atomic_folder(store.folder_of(id) / "adapter"):
            print(id, flush=True)
            time.sleep(60)
    """
    with start(code, store.folder) as process:
        id = line(process)
        process.kill()
    assert len(list(store.folder_of(id).iterdir())) == 1
    store.claim(id)
    store.claim(id)
    assert list(store.folder_of(id).iterdir()) == []
    assert (store.get(id).status, store.get(id).reason) == ("stopped", "interrupted (kernel died)")
    store.record(id, StatusChanged("training"))
    assert store.get(id).status == "training"

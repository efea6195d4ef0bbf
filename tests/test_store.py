"""The store, with real threads, real processes and a real SIGKILL."""

from __future__ import annotations

import math
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from peft_nb.errors import StoreError
from peft_nb.events import (
    Checkpointed,
    Evaluated,
    Event,
    Notice,
    Planned,
    Preparing,
    Resumed,
    StatusChanged,
    StepLogged,
)
from peft_nb.store import HISTORY, Store, records, schema
from peft_nb.system import files

REPO = Path(files.__file__).parents[1]
PRELUDE = """if True:
        import sys, time
        from peft_nb.events import *
        from peft_nb.store import Store
        store = Store(sys.argv[1])
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PRELUDE + code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def step(n: int, loss: float = 2.0) -> StepLogged:
    return StepLogged(n, n / 10, loss, 2e-4, 0.5, 900.0, 1500.0, 0.3 * n)


def ask(store: Store, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(store.folder / "index.sqlite")) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "peft_runs")


def new(store: Store, name: str | None = None) -> str:
    return store.create("r: 16\n", method="lora", model="smollm2-135m", name=name)


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


def test_the_folder_is_the_argument_else_the_variable_else_peft_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PEFT_NB_STORE", raising=False)
    assert Store().folder == tmp_path / "peft_runs"
    monkeypatch.setenv("PEFT_NB_STORE", str(tmp_path / "shared"))
    assert Store().folder == tmp_path / "shared"
    assert Store("mine").folder == tmp_path / "mine"


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


@pytest.mark.parametrize("name", ["", ".", "..", "../out", "a/b", "a\\b", "/etc", "a\0b", "a\n", "x" * 65, "a b"])
def test_names_never_leave_the_store(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match="cannot name a run"):
        new(store, name)
    with pytest.raises(StoreError, match="cannot name a run"):
        store.folder_of(name)
    with pytest.raises(StoreError, match="cannot name a run"):
        store.create("", method=f"{name}/x", model="m")
    assert store.all() == []
    assert list((store.folder / "runs").iterdir()) == []


def test_a_link_out_of_the_store_is_refused(store: Store, tmp_path: Path) -> None:
    id = new(store)
    store.folder_of(id).rmdir()
    (store.folder / "runs" / id).symlink_to(tmp_path)
    with pytest.raises(StoreError, match="leads out of the store"):
        store.folder_of(id)


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
    for event in (Evaluated(0, 3.5), step(2, 2.5), Evaluated(4, 2.25), step(4, 2.0), step(6, math.nan)):
        store.record(id, event)
    rows = store.history(id)
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    assert [row["eval_loss"] for row in rows] == [3.5, None, 2.25, None]
    assert [row["loss"] for row in rows] == [None, 2.5, 2.0, None]
    assert list(rows[0]) == HISTORY.split(", ")
    assert rows[2] == {
        "step": 4, "epoch": 0.4, "loss": 2.0, "eval_loss": 2.25, "learning_rate": 2e-4, "grad_norm": 0.5,
        "tokens_per_second": 900.0, "memory_mb": 1500.0, "elapsed_s": 1.2,
    }  # fmt: skip


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


def test_one_thread_records_while_others_read(store: Store) -> None:
    id = new(store)
    seen: list[int] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for n in range(300):
                store.record(id, step(n))
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    while worker.is_alive():
        seen.append(len(store.history(id)))
        assert store.get(id).id == id
    worker.join()
    assert not failures
    assert seen == sorted(seen)
    assert len(store.history(id)) == len(store.events(id)) == 300


@pytest.mark.exhaustive
def test_processes_on_one_folder_lose_nothing(tmp_path: Path) -> None:
    # All open the same new store at once, record into one shared run and into one of their own.
    shared = new(Store(tmp_path / "other"))
    code = """
        sys.stdin.readline()
        store = Store(sys.argv[2])
        own = store.create("", method="lora", model="m", name=sys.argv[3])
        for n in range(100):
            store.record(own, Notice(f"{n}"))
            store.set_metrics(own, {f"{n}": n})
            Store(sys.argv[1]).record(sys.argv[4], Notice(f"{sys.argv[3]} {n}"))
    """
    folder = tmp_path / "fresh"
    processes = [start(code, tmp_path / "other", folder, f"kernel{i}", shared) for i in range(4)]
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    store = Store(folder)
    assert {record.name for record in store.all()} == {f"kernel{i}" for i in range(4)}
    for record in store.all():
        assert store.events(record.id) == [Notice(f"{n}") for n in range(100)]
        assert len(record.metrics) == 100
    together = Store(tmp_path / "other").events(shared)
    assert sorted(e.text for e in together if isinstance(e, Notice)) == sorted(
        f"kernel{i} {n}" for i in range(4) for n in range(100)
    )
    assert ask(store, "PRAGMA journal_mode") == [("wal",)]


RECORDING = """
        id = store.create("", method="lora", model="m")
        print(id, flush=True)
        store.record(id, StatusChanged("training"))
        n = 0
        while True:
            store.record(id, Notice(str(n)))
            print(n, flush=True)
            n += 1
"""


def test_sigkill_loses_nothing_that_was_recorded_and_the_run_reads_as_stopped(store: Store) -> None:
    with start(RECORDING, store.folder) as process:
        id = line(process)
        while int(line(process)) < 50:
            pass
        assert store.get(id).status == "training"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout
        last = max([50, *map(int, process.stdout.read().split())])
    recorded = [int(event.text) for event in store.events(id) if isinstance(event, Notice)]
    assert recorded == list(range(len(recorded)))
    assert recorded[-1] >= last
    assert (store.get(id).status, store.get(id).reason) == ("stopped", "its process ended")
    assert store.all()[0].status == "stopped"


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
    assert (store.get(id).status, store.get(id).reason) == ("stopped", "its process ended")
    store.record(id, StatusChanged("training"))
    assert store.get(id).status == "training"


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
    assert (store.get(id).status, store.get(id).reason) == ("stopped", "its process ended")
    store.claim(id)
    monkeypatch.undo()
    files._owner.cache_clear()


@pytest.mark.parametrize("place", ["a-file", "a-file/store", "/proc/nowhere"])
def test_an_unwritable_folder_is_one_clear_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "a-file").write_text("kept")
    with pytest.raises(StoreError, match=r"^cannot write /[^\n]*; [^\n]*$"):
        Store(tmp_path / place)


def test_an_index_that_cannot_be_opened_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").mkdir()
    with pytest.raises(StoreError, match=r"^cannot use .*index.sqlite: this account may not use it; .*$"):
        Store(tmp_path)


def test_a_full_disk_is_one_clear_line_and_keeps_what_was_recorded(store: Store) -> None:
    code = """
        import resource
        from peft_nb.errors import StoreError
        id = store.create("", method="lora", model="m")
        print(id, flush=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
        n = 0
        try:
            while True:
                store.record(id, Notice(f"{n}" + "." * 500))
                n += 1
        except StoreError as error:
            print(n)
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.record(id, Notice("there is room again"))
    """
    with start(code, store.folder) as process:
        id, count, message = line(process), int(line(process)), line(process)
    assert process.returncode == 0
    assert message.startswith(f"cannot use {store.folder / 'index.sqlite'}: the disk ")
    assert message.endswith("choose another folder")
    recorded = [event.text.strip(".") for event in store.events(id) if isinstance(event, Notice)]
    assert recorded == [*map(str, range(count)), "there is room again"]


@pytest.mark.parametrize("damage", ["not a database at all", "a broken page"])
def test_a_damaged_index_is_one_clear_line(store: Store, damage: str) -> None:
    id = new(store)
    for n in range(200):
        store.record(id, step(n))
    store.close()
    index = store.folder / "index.sqlite"
    content = index.read_bytes()
    index.write_bytes(damage.encode() * 300 if "not" in damage else content[:100] + b"\xff" * 4000)
    with pytest.raises(StoreError, match=r"^cannot use .*index.sqlite: it is damaged; move it away[^\n]*$"):
        Store(store.folder).get(id)


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


def test_the_store_imports_nothing_heavy(tmp_path: Path) -> None:
    code = """
        print({"torch", "transformers", "peft", "datasets", "pandas", "numpy"} & sys.modules.keys())
    """
    with start(code, tmp_path) as process:
        assert line(process) == "set()"

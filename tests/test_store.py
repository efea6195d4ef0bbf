"""The store as a whole: several threads and processes at once, and a real SIGKILL."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from peft_nb.events import Notice
from peft_nb.store import Store
from tests.stores import ask, line, new, start, step

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
    assert (store.get(id).status, store.get(id).reason) == ("stopped", "interrupted (kernel died)")
    assert store.all()[0].status == "stopped"


def test_the_store_imports_nothing_heavy(tmp_path: Path) -> None:
    code = """
        print({"torch", "transformers", "peft", "datasets", "pandas", "numpy"} & sys.modules.keys())
    """
    with start(code, tmp_path) as process:
        assert line(process) == "set()"

"""Runs on a real Ray cluster of two nodes on loopback, whose workers and drivers are really killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from peft_nb.errors import RunError
from peft_nb.events import Event, Notice, Resumed, StatusChanged, StepLogged
from peft_nb.runs.executors import ray as executor
from peft_nb.runs.executors import ray_actors
from peft_nb.runs.run import Run, begin, load
from peft_nb.runs.sweeps import search
from peft_nb.spec import RunSpec
from peft_nb.spec.place import Place
from peft_nb.spec.sweep import SweepSpec
from peft_nb.store import Facts, Store
from peft_nb.system import ray_private
from tests.conftest import Python, stop_at

pytestmark = [pytest.mark.exhaustive, pytest.mark.skipif(sys.platform != "linux", reason="Ray's nodes are on loopback")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two nodes with one core each; no other test sees it."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # Ray's sockets bear with no long names
    (Path(folder) / "ray").mkdir()
    repository = str(Path(__file__).parents[1])
    environment = {"RAY_TMPDIR": folder, ray_private.INHERITED: "0", "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"RAY_AUTH_MODE": "disabled"}  # whatever token this account has
    environment |= {"PYTHONPATH": repository, "OMP_NUM_THREADS": "1"}
    environment |= {"RAY_DISABLE_MEMORY_MONITOR": "1", "RAY_memory_monitor_refresh_ms": "0"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        import ray
        from ray._private import ray_constants
        from ray.cluster_utils import Cluster

        patch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
        node = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
        nodes = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        nodes.add_node(**node)
        patch.setenv("RAY_ADDRESS", nodes.address)
        yield nodes.address
        ray.shutdown()
        nodes.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def sent(spec: Callable[..., RunSpec], rows: list[dict[str, str]], runs: Store, cluster: str) -> Callable[..., Run]:
    """Begin a run on the cluster, with rows of the notebook's memory."""

    def sent(*listeners: Any, place: dict[str, Any] | None = None, **fields: Any) -> Run:
        where, described = Place.of(on="ray", **place or {}), spec(data="tickets", **fields)
        return begin(described, namespace={"tickets": rows}, listeners=listeners, store=runs, place=where)

    return sent


def losses(run: Run) -> list[float]:
    found: list[float] = run.history.loss.dropna().tolist()
    return found


def left(run: Run) -> list[Path]:
    """What a run has left of itself on the machines of the cluster."""
    folders = (folder / f"peft_nb-{run.id}" for folder in (ray_actors.MEMORY, Path(tempfile.gettempdir())))
    return [folder for folder in folders if folder.exists()]


def workers() -> list[psutil.Process]:
    """The processes that train on the cluster of this test."""
    found = [one for one in psutil.process_iter(["cmdline"]) if "ray::Worker" in "".join(one.info["cmdline"] or ())]
    return [one for one in found if one.environ().get("RAY_TMPDIR") == os.environ["RAY_TMPDIR"]]


def test_two_workers_are_stopped_and_one_that_is_killed_goes_on_from_the_checkpoint(
    sent: Callable[..., Run], finished: Run
) -> None:
    run = sent(stop_at(3), place={"workers": 2}, save_steps=1).wait()
    assert run.status == "stopped"
    assert 3 <= run.metrics["steps"] < 8
    assert losses(run) == pytest.approx(losses(finished)[: run.metrics["steps"]], rel=1e-3)
    killed: list[int] = []

    def kill(event: Event) -> None:
        if isinstance(event, StepLogged) and event.step >= 5 and not killed:
            for process in workers():
                killed.append(process.pid)
                process.kill()

    run.resume(listeners=[kill], on="ray")
    assert killed
    assert (run.status, run.facts.place) == ("finished", None)
    resumed = [event.step for event in run.events() if isinstance(event, Resumed)]
    assert len(resumed) >= 2
    assert any("a worker died" in event.text for event in run.events() if isinstance(event, Notice))
    assert losses(run) == pytest.approx(losses(finished), rel=1e-3)
    assert left(run) == []


def test_a_sweep_has_its_trials_there_and_comes_to_what_it_does_here(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], runs: Store, cluster: str
) -> None:
    found = []
    for place, parallel in ((Place.of(on="ray"), 2), (Place(), 1)):
        fields = spec(data="tickets", max_steps=2).changed() | {"sweep": {"learning_rate": [1e-3, 3e-3, 1e-2]}}
        fields.pop("learning_rate")
        searching = SweepSpec(**fields, search="grid", parallel=parallel)
        begun = search.begin(searching, namespace={"tickets": rows}, store=runs, place=place)
        begun.wait()
        record = begun.record
        assert [one.state for one in record.trials] == ["finished"] * 3
        assert record.notes == ()
        found.append({one.values["learning_rate"]: one.metrics["eval_loss"] for one in record.trials})
    assert found[0] == pytest.approx(found[1], rel=1e-3)


DRIVER = """
import json, os, signal, sys
from peft_nb.events import StepLogged
from peft_nb.runs.run import begin
from peft_nb.spec import RunSpec
from peft_nb.spec.place import Place
from peft_nb.spec.sweep import SweepSpec

def die(event):
    if isinstance(event, StepLogged) and event.step == 2:
        os.kill(os.getpid(), signal.SIGKILL)

spec, tickets = RunSpec.from_yaml(sys.argv[1]), json.loads(sys.argv[2])
begin(spec, namespace={"tickets": tickets}, listeners=[die], place=Place.of(on="ray")).wait()
"""


def test_a_driver_that_is_killed_leaves_a_run_that_is_followed_to_the_end_it_has_here(
    spec: Callable[..., RunSpec],
    rows: list[dict[str, str]],
    finished: Run,
    cluster: str,
    tmp_path: Path,
    python: Python,
) -> None:
    described = spec(data="tickets", name="far", judge="quick", accept={"eval_loss": "< 100"})
    environment = {**os.environ, "PEFT_NB_STORE": str(tmp_path)}
    driver = python("-c", DRIVER, described.to_yaml(), json.dumps(rows), env=environment)
    assert driver.wait(120) == -signal.SIGKILL
    run = load("far", store=Store(tmp_path))
    assert (run.status, run.away, run.facts.place) == ("training", True, cluster)
    with pytest.raises(RunError, match="is training already"):
        run.resume()
    with pytest.raises(RunError, match="a process is at work on it; stop it first"):
        run.store.remove(run.id)
    run.wait()
    assert (run.status, run.facts.place, run.away, run.version) == ("finished", None, False, "far v1")
    assert [event.step for event in run.events() if isinstance(event, StepLogged)] == list(range(1, 9))
    assert losses(run) == pytest.approx(losses(finished), rel=1e-3)
    assert run.metrics["verdict"].startswith("passed")
    assert run.judgement["metrics"]["eval_loss"] == run.metrics["eval_loss"]
    assert run.facts.fingerprint == finished.facts.fingerprint
    assert not any("versions differ" in event.text for event in run.events() if isinstance(event, Notice))
    assert run.store.verify(run.id) == {}
    assert run.generate("Hello", max_new_tokens=8) == finished.generate("Hello", max_new_tokens=8)
    assert left(run) == []


def test_a_run_whose_cluster_is_gone_is_given_up_when_that_is_wanted(
    spec: Callable[..., RunSpec], store: Store, cluster: str
) -> None:
    id = store.create(spec().to_yaml(), method="lora", model="m")
    store.record(id, StatusChanged("training"))
    store.set_facts(id, Facts(place="127.0.0.1:9"))
    store._index._db.execute("UPDATE runs SET owner = '1-1.00-elsewhere', created = 0")
    store._index._db.execute("UPDATE events SET at = 0")
    run = load(id, store=store)
    assert (run.status, run.away) == ("training", True)
    with pytest.raises(RunError, match="connected to the Ray cluster|no Ray cluster answers"):
        run.stop()
    assert run.away
    run.stop(now=True)
    assert (run.status, run.reason, run.facts.place) == ("stopped", "its cluster cannot be reached", None)


def test_each_process_gets_its_share_of_the_cores() -> None:
    assert [executor.share([8, 0], processes) for processes in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
    assert [executor.share([4, 8], processes) for processes in (1, 2, 8)] == [4, 4, 1]
    assert executor.share([], 1) == 1


def test_a_cluster_that_is_not_there_is_told_at_once(cluster: str) -> None:
    with pytest.raises(RunError, match=r"^this process is connected to the Ray cluster at|^no Ray cluster answers at"):
        executor.connect("ray://127.0.0.1:9")
    with pytest.raises(RunError, match=r"^no Ray cluster answers at 127\.0\.0\.1:9 \(Connection refused\); start it"):
        executor._reach("127.0.0.1:9")

"""What runs on a Ray cluster: a supervisor for each run, the workers that train it, and a shelf for the rows.

Supervisors and the shelf are detached: they stay when the process that began the run ends. A supervisor keeps what was
told until somebody has fetched it, and the newest checkpoint in memory, from which it starts workers again that died.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import socket
import tempfile
import threading
import time
import traceback
import zlib
from collections import Counter
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from peft_nb.events import Event, Notice, Preparing, Resumed, from_json
from peft_nb.models.quiet import first_line
from peft_nb.runs.executors import files
from peft_nb.runs.executors.job import Job
from peft_nb.runs.executors.worker import History, execute, message
from peft_nb.store.runs import PACKAGES
from peft_nb.system.resources import THREADS
from peft_nb.training.stop import StopFlag

NAMESPACE, SHELF = "peft_nb", "peft_nb-rows"
START = "start"  # the folder of the adapter that a run starts from
RESTARTS = 3  # of workers that died, before the run fails
LOOK_S = 0.2
PATIENCE_S = 10.0  # for workers that were told to give up the current step
MEMORY = Path("/dev/shm")
ROOM = 2**30  # bytes that have to be free there
MOST = 256  # messages fetched at once

Message = tuple[str, dict[str, Any]]


def versions() -> dict[str, str]:
    """The versions of what a run depends on, in this process."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


class Shelf:
    """Rows by the hash of their content, in memory, for as long as a run uses them."""

    def __init__(self) -> None:
        self._rows: dict[str, bytes] = {}
        self._users: dict[str, set[str]] = {}

    def claim(self, key: str, run: str) -> bool:
        """Keep some rows for a run, if they are here; whether they are."""
        if key in self._rows:
            self._users[key].add(run)
        return key in self._rows

    def put(self, key: str, run: str, rows: bytes) -> None:
        """Take rows for a run; ValueError if they are not what was sent."""
        if hashlib.sha256(rows).hexdigest() != key:
            raise ValueError("the rows did not arrive as they were sent")
        self._rows[key] = rows
        self._users.setdefault(key, set()).add(run)

    def get(self, key: str) -> bytes:
        """Give rows."""
        return self._rows[key]

    def release(self, key: str, run: str) -> None:
        """Drop rows that no run uses any more."""
        self._users.get(key, set()).discard(run)
        if not self._users.get(key):
            self._rows.pop(key, None)
            self._users.pop(key, None)


class Supervisor:
    """Looks after one run on the cluster.

    Parameters
    ----------
    job : dict
        The run, as :class:`.job.Job`.
    key : str
        Of its rows on the shelf.
    parcels : list of dict
        Files that it needs to begin or to go on, as :mod:`.files` packs them.
    shape : dict
        ``workers``, ``cpus`` and ``gpus`` of each, ``keep``.
    """

    def __init__(self, job: dict[str, Any], key: str, parcels: list[dict[str, Any]], shape: dict[str, Any]) -> None:
        self._job, self._key, self._shape = Job(**job), key, shape
        self._parcels = {one["folder"]: one for one in parcels}
        self._history = History(self._job.history)
        self._messages: list[Message] = []
        self._first, self._attempt, self._stop, self._over = 0, 0, "", False
        self._nodes: set[str] = set()
        self._root = ""
        self._tidied = threading.Event()
        self._changed = threading.Condition()
        threading.Thread(target=self._supervise, name="supervisor", daemon=True).start()

    # ---- asked by the notebook

    def after(self, seen: int, seconds: float) -> tuple[int, list[Message]]:
        """Wait for messages, and give them with the number of the first; those before `seen` were taken."""
        with self._changed:
            del self._messages[: max(0, seen - self._first)]
            self._first = max(self._first, seen)
            self._changed.wait_for(lambda: self._messages, seconds)
            return self._first, self._messages[:MOST]

    def stop(self, now: bool) -> None:
        """End the run after its current step, or at once."""
        self._stop = "now" if now or self._stop == "now" else "soon"

    def tidied(self, seconds: float) -> bool:
        """Wait until nothing of the run is left on the cluster but this."""
        return self._tidied.wait(seconds)

    # ---- asked by workers

    def tell(self, attempt: int, messages: list[Message]) -> None:
        """Take what a worker tells; one of an attempt that is over is not heard any more."""
        with self._changed:
            for kind, told in messages:
                if attempt == self._attempt and not self._over:
                    self._take(kind, told)
                    self._messages.append((kind, told))
            self._changed.notify_all()

    def _take(self, kind: str, told: dict[str, Any]) -> None:
        """Remember what it takes to start again from the last checkpoint."""
        if kind == "event":
            self._history(from_json(told["kind"], told["fields"]))
        elif kind == "files":
            folder = told["folder"]
            if "/checkpoint-" in folder:
                self._parcels = {name: one for name, one in self._parcels.items() if "/checkpoint-" not in name}
            self._parcels[folder] = told
        else:
            self._job = Job(**{**vars(self._job), "metrics": told["metrics"], "facts": told["facts"]})
            self._over |= kind == "end"

    def _say(self, *events: Event) -> None:
        self.tell(self._attempt, [message(one) for one in events])

    def _end(self, **how: Any) -> None:
        self.tell(self._attempt, [("end", {"metrics": self._job.metrics, "facts": self._job.facts, **how})])

    # ---- at work

    def _supervise(self) -> None:
        died = ""
        try:
            while not self._over and self._attempt <= RESTARTS:
                died = self._try()
                if self._over:
                    break
                if self._stop:
                    self._end(how="abandoned", reason="")
                    break
                last = max((name for name in self._parcels if "/checkpoint-" in name), default="")
                step = last.rpartition("-")[2] or "0"
                self._attempt += 1
                self._say(Notice(f"a worker died ({died}); workers are started again from step {step}", "warning"))
                if not last:
                    self._say(Resumed(0))
            if not self._over:
                told = f"workers died {RESTARTS + 1} times, the last of them of: {died}"
                self._end(how="failed", error="RunError", reason=f"{told}; resume() goes on from the last checkpoint")
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            self._end(how="failed", error="", reason=reason, story=traceback.format_exc())
        finally:
            self._tidy()

    def _try(self) -> str:
        """Train with workers of one attempt; why one of them died, or nothing."""
        import ray
        from ray.exceptions import RayError
        from ray.util.placement_group import placement_group, remove_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        shape, me = self._shape, ray.get_runtime_context().current_actor
        own = {"CPU": shape["cpus"]} | ({"GPU": shape["gpus"]} if shape["gpus"] else {})
        group, crew = placement_group([own] * shape["workers"], strategy="PACK"), list[Any]()
        try:
            if not self._waited(group):
                return ""
            worker = ray.remote(Worker)
            for place in range(shape["workers"]):
                strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=place)
                options = {"num_cpus": own["CPU"], "num_gpus": shape["gpus"], "scheduling_strategy": strategy}
                crew.append(worker.options(max_concurrency=4, max_restarts=0, **options).remote())
            self._settle(ray, crew)
            resumed = self._job.resumed or any("/checkpoint-" in name for name in self._parcels)
            job = {**vars(self._job), "history": self._history.rows, "resumed": resumed}
            why = self._follow(ray, crew, [one.train.remote(me, self._attempt, job, self._key) for one in crew])
            if not shape["keep"] and (self._over or self._stop == "soon"):
                ray.get([one.leave.remote() for one in crew], timeout=PATIENCE_S)
                self._nodes.clear()
            return why
        except RayError as error:
            return first_line(error)
        finally:
            for one in crew:
                ray.kill(one)
            remove_placement_group(group)

    def _waited(self, group: Any) -> bool:
        """Wait until there is room for the workers; whether there is, or the run was given up."""
        told = False
        while not group.wait(timeout_seconds=1):
            if self._stop:
                return False
            if not told:
                own = f"{self._shape['workers']} × {self._shape['cpus']} CPUs and {self._shape['gpus']:g} GPUs"
                self._say(Preparing(f"waiting for room on the cluster: {own}"))
                told = True
        return True

    def _settle(self, ray: Any, crew: list[Any]) -> None:
        """Tell each worker which of several it is, and give every machine the files."""
        shape, parcels = self._shape, ray.put([*self._parcels.values()])
        places = ray.get([one.where.remote(self._job.id, shape["keep"]) for one in crew])
        nodes = [node for node, *_ in places]
        _, address, port, root = places[0]  # all have to call the folder the same
        self._nodes |= {*nodes}
        if not (shape["keep"] or self._root or Path(root).is_relative_to(MEMORY)):
            told = "the rows lie on the disk of the cluster's machines while the run lasts: memory disks are too small"
            self._say(Notice(told, "warning"))
        self._root, waits, seen = root, list[Any](), Counter[str]()
        for rank, (one, node) in enumerate(zip(crew, nodes, strict=True)):
            given = dict.fromkeys(THREADS, max(1, int(shape["cpus"])))
            if len(crew) > 1:
                # Ray shows each worker its own GPUs alone, of which it takes the first.
                local = (0, 1) if shape["gpus"] else (seen[node], nodes.count(node))
                given |= {"RANK": rank, "WORLD_SIZE": len(crew), "MASTER_ADDR": address, "MASTER_PORT": port}
                given |= dict(zip(("LOCAL_RANK", "LOCAL_WORLD_SIZE"), local, strict=True))
            environment = {name: str(value) for name, value in given.items()}
            if not shape["gpus"]:
                environment["CUDA_VISIBLE_DEVICES"] = ""  # those of the machine may be another's
            waits.append(one.settle.remote(root, self._job.id, environment, None if seen[node] else parcels))
            seen[node] += 1
        ray.get(waits)

    def _follow(self, ray: Any, crew: list[Any], works: list[Any]) -> str:
        said, late = "", float("inf")
        while works and not self._over and time.monotonic() < late:
            done, works = ray.wait(works, timeout=LOOK_S)
            if self._stop != said:
                said = self._stop
                late = time.monotonic() + PATIENCE_S if said == "now" else late
                for one in crew:
                    one.stop.remote(said == "now")
            for one in done:
                ray.get(one)
        return "it ended without a word"

    def _tidy(self) -> None:
        """Leave nothing of the run on the cluster, unless that is wanted."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        try:
            if self._shape["keep"]:
                return
            ray.get(ray.get_actor(SHELF, NAMESPACE).release.remote(self._key, self._job.id))
            for node in self._nodes:
                strategy = NodeAffinitySchedulingStrategy(node, soft=False)
                options = {"num_cpus": 0, "scheduling_strategy": strategy}
                with suppress(Exception):  # it may be gone
                    ray.get(ray.remote(forget).options(**options).remote(self._root), timeout=PATIENCE_S)
        finally:
            self._tidied.set()


class Worker:
    """One of the processes that train a run; each has a process of its own on the cluster."""

    def where(self, run: str, keep: bool) -> tuple[str, str, int, str]:
        """Its node, the address of that, a port of it that is free, and a folder for the run."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        room = not keep and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM
        folder = (MEMORY if room else Path(tempfile.gettempdir())) / f"peft_nb-{run}"
        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), port, str(folder)

    def settle(self, root: str, run: str, environment: dict[str, str], parcels: list[dict[str, Any]] | None) -> None:
        """Learn which of several it is and, as the first of a machine, write the files that the run needs."""
        os.environ.update(environment)
        self._flag, self._root, self._folder = StopFlag(), Path(root), Path(root) / "runs" / run
        if parcels is not None:
            shutil.rmtree(self._folder, ignore_errors=True)  # an earlier attempt may have got further than was told
            self._folder.mkdir(parents=True)
            for one in parcels:
                files.unpack(self._root, run, one)

    def stop(self, now: bool) -> None:
        """Ask the run to end."""
        self._flag.soon.set()
        if now:
            self._flag.now.set()

    def train(self, supervisor: Any, attempt: int, job: dict[str, Any], key: str) -> None:
        """Train, and tell the supervisor."""
        import ray

        rows = zlib.decompress(ray.get(ray.get_actor(SHELF, NAMESPACE).get.remote(key))).decode()
        messages: SimpleQueue[Message | None] = SimpleQueue()

        def ship() -> None:
            over = False
            while not over:
                batch = [messages.get()]
                while not messages.empty():
                    batch.append(messages.get())
                over = None in batch
                if told := [one for one in batch if one]:
                    ray.get(supervisor.tell.remote(attempt, told))

        shipping = threading.Thread(target=ship, name="messages")
        shipping.start()
        adapter = self._root / START
        try:
            outbox = Outbox(self._folder, messages)
            execute(Job(**job), rows, self._folder, self._flag, outbox, adapter if adapter.is_dir() else None)
        finally:
            messages.put(None)
            shipping.join()

    def leave(self) -> None:
        """Leave nothing of the run on this machine."""
        forget(str(self._root))


class Outbox:
    """Sends the files of a run before whatever tells of them.

    Parameters
    ----------
    folder : Path
        The run's.
    messages : queue
        Takes each message.
    """

    def __init__(self, folder: Path, messages: SimpleQueue[Message | None]) -> None:
        self._folder, self._store, self._messages = folder, folder.parent.parent, messages
        self._sent: dict[str, dict[str, str]] = {}

    def __call__(self, kind: str, told: dict[str, Any]) -> None:
        """Send one message."""
        folder, event = self._folder, told.get("kind")
        if event == "Planned":
            self._send(folder, *files.encoded(folder))
        elif event == "Checkpointed":
            self._send(folder, Path(told["fields"]["folder"]), folder / "checkpoints" / "best")
        elif kind == "end":
            self._send(folder, folder / "adapter")
        self._messages.put((kind, told))

    def _send(self, *folders: Path) -> None:
        for folder in filter(Path.is_dir, folders):
            parcel = files.pack(self._store, folder)
            if self._sent.get(parcel["folder"]) != parcel["hashes"]:
                self._sent[parcel["folder"]] = parcel["hashes"]
                self._messages.put(("files", parcel))


def forget(root: str) -> None:
    """Leave nothing of a run on this machine; also where its workers died."""
    shutil.rmtree(root, ignore_errors=True)

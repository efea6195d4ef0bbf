"""``ray``: a run goes to a Ray cluster as its spec and its rows by content, and what happens there comes back.

There a supervisor looks after it, see :mod:`.ray_actors`; it stays when this process ends, and :func:`found` follows it
again. Checkpoints and the adapter come back with their hashes, so that the run's folder here is that of any other run.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from peft_nb.data.table import Table
from peft_nb.errors import RunError
from peft_nb.events import Event, Notice, Preparing, from_json
from peft_nb.models.quiet import first_line
from peft_nb.runs import init_adapter
from peft_nb.runs.context import Context
from peft_nb.runs.executors import files, ray_actors, relay
from peft_nb.runs.executors.job import Job, pack
from peft_nb.runs.executors.ray_actors import NAMESPACE, SHELF, START
from peft_nb.runs.pipeline import Outcome
from peft_nb.spec.place import Place
from peft_nb.system import ray_private, resources
from peft_nb.training.stop import Abandoned

if TYPE_CHECKING:
    from peft import PeftModel

LOOK_S = 0.2  # between two looks at the stop flag
ANSWER_S = 60.0  # for a cluster to say which packages it has
REACH_S = 5.0  # for it to be connected to

_connecting = threading.Lock()  # several runs may begin at once
_own: list[str] = []  # the address of the cluster that this process has started, and that ends with it


class Cluster:
    """Executes runs on a Ray cluster.

    Parameters
    ----------
    place : Place
        Which one, and how many workers with how many cores and GPUs.
    """

    def __init__(self, place: Place) -> None:
        self.place = place

    def train(
        self,
        context: Context,
        table: Table | None,
        *,
        hold: Callable[[PeftModel, Any], None],
        curve: Callable[[], list[dict[str, Any]]],
    ) -> Outcome:
        """Do what :func:`peft_nb.runs.pipeline.train` does, there; the model stays there, the adapter comes here."""
        context.publish(Preparing("connecting to the Ray cluster"))
        address = connect(self.place.on)
        import ray

        with _explained():
            _tell_versions(context)
            context.heed_stop()
            context.publish(Preparing("sending the rows"))
            key = _shelve(context, table)
            shape = {"workers": self.place.workers, "cpus": self._cpus(), "gpus": self.place.gpus}
            _tell_room(context, shape)
            shape["keep"] = self.place.keep
            if address not in _own:
                context.note(place=address)
                context.keep()
            with suppress(ValueError):  # there is none, unless this process lost it before
                ray.kill(ray.get_actor(context.folder.name, NAMESPACE))
            job = vars(Job.of(context, resumed=table is None))
            options: dict[str, Any] = {"name": context.folder.name, "namespace": NAMESPACE, "lifetime": "detached"}
            options |= {"num_cpus": 0, "max_concurrency": 32}
            supervisor = ray.remote(ray_actors.Supervisor).options(**options)
            return follow(context, supervisor.remote(job, key, self._parcels(context, table), shape), ())

    def _parcels(self, context: Context, table: Table | None) -> list[dict[str, Any]]:
        """The files that the run needs there."""
        store = context.folder.parent.parent
        found = [files.pack(store, folder) for folder in files.resumable(context.folder)] if table is None else []
        if start := init_adapter.needed(context):
            found.append({**files.pack(start.folder.parent, start.folder), "folder": START})
        return found

    def _cpus(self) -> int:
        """Cores of each worker: as many as was said, else its share of the smallest node that has some."""
        import ray

        nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        return self.place.cpus or share(nodes, self.place.workers * self.place.at_once)


def share(nodes: Sequence[int], processes: int) -> int:
    """Cores that each of some processes gets, spread over the nodes, of the smallest that has some; 1 or more."""
    cores = [count for count in nodes if count] or [1]
    return max(1, min(cores) // -(-processes // len(cores)))


def connect(on: str) -> str:
    """Connect this process to a cluster, unless it is connected, and give its address.

    Parameters
    ----------
    on : str
        ``ray`` for the one at ``RAY_ADDRESS``, else one that is started here on loopback; an address otherwise.

    Raises
    ------
    RunError
        If it cannot be reached, or this process is connected to another.
    """
    with _connecting:
        return _connect(on)


def _connect(on: str) -> str:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        import ray
    except ImportError:
        raise RunError("--on ray needs the package ray; %pip install 'peft_nb[ray]'") from None
    wanted = on if on != "ray" else os.environ.get("RAY_ADDRESS", "")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": NAMESPACE}
    if not ray.is_initialized() and wanted:
        _reach(wanted)
        try:
            ray.init(address=wanted, **quiet)
        except Exception as error:
            fix = "start it with ray start --head, or say where it is"
            raise RunError(f"no Ray cluster answers at {wanted} ({first_line(error)}); {fix}") from None
    elif not ray.is_initialized():
        with ray_private.on_loopback():
            ray.init(address="local", num_cpus=resources.cores(), include_dashboard=False, **quiet)
        _own.append(_address(""))
    known = _address(wanted)
    if wanted not in ("", "auto", known):
        fix = "ray.shutdown() ends the connection"
        raise RunError(f"this process is connected to the Ray cluster at {known}, not {wanted}; {fix}")
    return known


def _reach(address: str) -> None:
    """Try whether anybody listens there at all: Ray itself would try for long, and then end this process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
        except OSError as error:
            fix = "start it with ray start --head, or say where it is"
            raise RunError(f"no Ray cluster answers at {address} ({error.strerror or error}); {fix}") from None


def _address(wanted: str) -> str:
    """By what address another process reaches the cluster that this one is connected to."""
    import ray

    if wanted.startswith("ray://") and ray.util.client.ray.is_connected():
        return wanted
    return str(ray.get_runtime_context().gcs_address)


def found(place: str, id: str, known: Sequence[Event]) -> Callable[[Context], Outcome]:
    """Find a run again that is at work on a cluster, or has ended there since.

    Parameters
    ----------
    place : str
        The address of the cluster.
    id : str
        The run.
    known : sequence of Event
        What it has told before.

    Returns
    -------
    callable
        Takes the run and follows it to its end.

    Raises
    ------
    RunError
        If the cluster cannot be reached.
    """
    connect(place)
    import ray

    try:
        supervisor = ray.get_actor(id, NAMESPACE)
    except ValueError:

        def gone(context: Context) -> Outcome:
            raise Abandoned(f"the cluster at {place} knows it no more")

        return gone

    def follow_again(context: Context) -> Outcome:
        with _explained():
            return follow(context, supervisor, known)

    return follow_again


def follow(context: Context, supervisor: Any, known: Sequence[Event]) -> Outcome:
    """Take in what a supervisor tells until the run is over there.

    Parameters
    ----------
    context : Context
        The run.
    supervisor : actor
        As :class:`.ray_actors.Supervisor`.
    known : sequence of Event
        What was told before, of which some may be told again at first.
    """
    import ray

    from peft_nb.training import checkpoint

    seen, said, outcome = 0, "", None
    store, run = context.folder.parent.parent, context.folder.name
    while outcome is None:
        word = "now" if context.stop.now.is_set() else "soon" if context.stop.soon.is_set() else ""
        if word != said:
            said = word
            supervisor.stop.remote(word == "now")
        first, messages = ray.get(supervisor.after.remote(seen, LOOK_S))
        for kind, told in messages:
            if kind == "files":
                files.unpack(store, run, told)
            elif kind != "event" or not known or from_json(told["kind"], told["fields"]) not in known:
                if kind == "end":
                    with suppress(Exception):  # it may take its time; what it told is here
                        ray.get(supervisor.tidied.remote(ANSWER_S))
                    ray.kill(supervisor)
                outcome = relay.take(context, kind, told)
            if kind == "event" and told["kind"] == "Checkpointed":
                checkpoint.keep_newest(context.folder / "checkpoints", context.spec.save_total_limit)
        seen, known = first + len(messages), () if messages else known
    return outcome


def _shelve(context: Context, table: Table | None) -> str:
    """Bring the rows to the cluster, unless they are there, and give the hash of their content."""
    import ray

    rows = zlib.compress(pack(context, table).encode(), 1)
    key, run = hashlib.sha256(rows).hexdigest(), context.folder.name
    options = {"name": SHELF, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True, "num_cpus": 0}
    shelf = ray.remote(ray_actors.Shelf).options(**options).remote()
    if not ray.get(shelf.claim.remote(key, run)):
        ray.get(shelf.put.remote(key, run, rows))
    return key


def _tell_versions(context: Context) -> None:
    """Warn of packages whose versions differ there, before anything runs."""
    import ray

    here = ray_actors.versions()
    there = ray.get(ray.remote(ray_actors.versions).options(num_cpus=0).remote(), timeout=ANSWER_S)
    differ = [
        f"{name} {there.get(name, 'is missing')} there and {here.get(name, 'is missing')} here"
        for name in {**here, **there}
        if here.get(name) != there.get(name)
    ]
    if differ:
        told = f"versions differ on the cluster, and so may results: {', '.join(differ)}"
        context.publish(Notice(told, "warning", "install the same versions there"))


def _tell_room(context: Context, shape: dict[str, Any]) -> None:
    """Warn of a cluster that is too small, which may grow."""
    import ray

    has = ray.cluster_resources()
    for name, unit in (("CPU", "cpus"), ("GPU", "gpus")):
        wanted = shape["workers"] * shape[unit]
        if wanted > has.get(name, 0):
            told = f"the cluster has {has.get(name, 0):g} {name}s, and the run needs {wanted:g}"
            context.publish(Notice(f"{told}: it waits until the cluster grows", "warning", f"lower workers or {unit}"))


@contextmanager
def _explained() -> Iterator[None]:
    """Say in a line what goes wrong with the cluster itself."""
    from ray.exceptions import RayError

    try:
        yield
    except (RayError, ConnectionError) as error:
        if "No module named 'peft_nb'" in str(error):
            raise RunError("peft_nb is not installed on the cluster; install it there, in the same version") from None
        fix = "resume() goes on from the last checkpoint that is here"
        raise RunError(f"the Ray cluster has failed: {type(error).__name__}: {first_line(error)}; {fix}") from None

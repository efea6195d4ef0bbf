"""The process that serves: it keeps engines, follows the store's aliases, and ends with whoever started it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from peft_nb.errors import PeftNbError, RunError
from peft_nb.serving import adapter_gguf, targets
from peft_nb.serving.answer_log import AnswerLog
from peft_nb.serving.engine import Engine, Load
from peft_nb.serving.engines import ENGINES
from peft_nb.serving.front import Front, Limits
from peft_nb.serving.handlers import DRAINED, application
from peft_nb.store import Store
from peft_nb.system import files

LOOK_S = 0.5  # between two looks at the store, the engine and whoever started this
DRAIN_S = 600.0  # longest that an engine that was replaced may go on answering
STOP_S = 5.0  # longest that the end of the server waits for answers at work
SHORT_S = 5.0  # an engine that lived no longer than that ended right after its start
MOST_SHORT = 3  # such ends in a row, after which no other engine is started
LOOPBACK = {"127.0.0.1", "localhost"}
PORTS = range(8000, 8020)  # of which the first free one is taken


@dataclass(frozen=True)
class Service:
    """All that a serving process is told.

    Attributes
    ----------
    names : dict of str to str
        What to serve: the names that requests write, and for each what the store knows it by.
    store : str
        Folder of the store.
    base_folder, base_file : str
        The base model as a plain folder and as the engine loads it.
    engine : str
        Which engine.
    outtype : str
        How merged models are held.
    host : str
        Address to listen on.
    port : int
        Port, or 0 for the first free one from 8000.
    key_from : str or None
        Environment variable that holds the key that clients must send.
    owner : str or None
        Process with which it ends, as :func:`peft_nb.system.files.owner` names it.
    log, log_texts : str or None, bool
        File for the log of answers, and whether it holds texts.
    slots, queue, context, threads : int
        Requests at the same time, those that may wait, tokens of each, and threads.
    body_mb : float
        Largest request.
    routers : dict of str to str
        Names under which requests are routed to those of `names`, and the folders of what routes them.
    """

    names: dict[str, str]
    store: str
    base_folder: str
    base_file: str
    engine: str = "llama.cpp"
    outtype: str = "f16"
    host: str = "127.0.0.1"
    port: int = 0
    key_from: str | None = None
    owner: str | None = None
    log: str | None = None
    log_texts: bool = False
    slots: int = 8
    queue: int = 64
    context: int = 4096
    threads: int = 1
    body_mb: float = 1.0
    routers: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Write it down for another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Service:
        """Read it back."""
        return cls(**json.loads(text))


def listen(host: str, port: int) -> socket.socket:
    """Take a port.

    Parameters
    ----------
    host : str
        Address.
    port : int
        Port, or 0 for the first free one from 8000.

    Raises
    ------
    RunError
        If it is taken.
    """
    from tornado.netutil import bind_sockets

    for one in (port,) if port else PORTS:
        try:
            return bind_sockets(one, host, socket.AF_INET)[0]
        except PermissionError:
            raise RunError(f"port {one} may not be used by this account; choose one above 1024 with --port") from None
        except OSError as error:
            problem = error.strerror or str(error)
    where = f"port {port}" if port else f"no port from {PORTS[0]} to {PORTS[-1]}"
    raise RunError(f"{where} can be used on {host}: {problem}; choose another with --port")


def key_of(variable: str | None) -> str | None:
    """Read the key that clients must send."""
    if variable is None:
        return None
    key = os.environ.get(variable, "")
    if not key.strip():
        raise RunError(f"--key-from {variable}: this environment variable is not set; set it to the key first")
    return key


class Process:
    """A service at work.

    Parameters
    ----------
    service : Service
        What it was told.
    tell : callable
        Told the address once requests are answered.
    """

    def __init__(self, service: Service, tell: Callable[[str], None]) -> None:
        self.service, self.tell = service, tell
        self.store = Store(service.store)
        limits = Limits(service.slots, service.queue, int(service.body_mb * 1e6))
        log = AnswerLog(Path(service.log), service.log_texts) if service.log else None
        hosts = LOOPBACK if service.host in LOOPBACK else None
        self.kind = ENGINES[service.engine]
        told = limits, key_of(service.key_from), hosts, log, service.base_file, self.kind.mixes
        self.front = Front(*told, self.store.vote)
        if service.routers:
            from peft_nb.serving.route import Gate

            self.front.routers = {name: Gate.load(Path(folder)) for name, folder in service.routers.items()}
            if not self.kind.blends and any(router.blend > 1 for router in self.front.routers.values()):
                raise RunError(f"{self.kind.name} answers each request by one adapter; serve a router without blend")
            for router in self.front.routers.values():
                router.nearest.embedder.load()  # now, and not while somebody waits for an answer
        self.engines: list[Engine] = []
        self.draining: set[asyncio.Task[None]] = set()
        self.short = 0
        self.refused: dict[str, targets.Target] = {}
        self.over = asyncio.Event()
        self.failed: Exception | None = None

    async def run(self) -> None:
        """Serve until it is told to end, or whoever started it is gone."""
        from tornado.httpserver import HTTPServer

        service, front = self.service, self.front
        sock = listen(service.host, service.port)
        state = Path(service.store) / "servers" / f"{sock.getsockname()[1]}.json"
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError):  # on Windows, where a server is simply ended
                loop.add_signal_handler(number, self.over.set)
        body = front.limits.body_bytes * DRAINED
        server = HTTPServer(application(front), max_body_size=body, body_timeout=60, idle_connection_timeout=120)
        work = None
        try:
            await self._start(self._read(first=True) or {})
            server.add_sockets([sock])
            address = f"http://{service.host}:{sock.getsockname()[1]}"
            names = [*service.names, *service.routers]
            told = {"owner": files.owner(), "address": address, "names": names, "key_from": service.key_from}
            files.atomic_text(state, json.dumps(told))
            self.tell(address)
            work = asyncio.create_task(self._keep())
            await self.over.wait()
            if self.failed:
                raise self.failed
        finally:
            state.unlink(missing_ok=True)
            server.stop()
            if work:
                work.cancel()
            until = time.monotonic() + STOP_S
            while front.inside and any(one.alive for one in self.engines) and time.monotonic() < until:
                await asyncio.sleep(0.02)
            for one in self.engines:
                one.close()
            for writing in psutil.Process().children():  # a merge may take long, and nobody waits for it any more
                writing.kill()
            if front.log:
                front.log.close()

    async def _keep(self) -> None:
        """Look again and again at what may have changed; files for what was promoted are written meanwhile."""
        reading: asyncio.Task[dict[str, targets.Target] | None] | None = None
        while True:
            await asyncio.sleep(LOOK_S)
            owner = self.service.owner
            if owner and files.alive(owner) is False:
                self.over.set()
                return
            try:
                await self._replace_ended()
                reading = reading or asyncio.create_task(asyncio.to_thread(self._read))
                done, _ = await asyncio.wait({reading}, timeout=LOOK_S)
                if done:
                    reading = None
                    await self._take(done.pop().result())
            except PeftNbError as error:
                self.failed = error
                self.over.set()
                return
            except Exception as error:  # the next look may go well, and requests are answered meanwhile
                logging.exception("the store could not be followed")
                self.front.troubles[""] = f"the store could not be followed: {error}"

    async def _replace_ended(self) -> None:
        """Start an engine in place of each that has ended."""
        ended = [one for one in self.engines if not one.alive]
        for one in ended:
            self.front.lose(one)
            one.close()
        if ended:
            self.short = self.short + 1 if time.monotonic() - ended[-1].began < SHORT_S else 0
            if self.short == MOST_SHORT:
                raise RunError(f"the engine ended {MOST_SHORT} times right after its start")
            await self._start(self.front.targets)

    async def _take(self, changed: dict[str, targets.Target] | None) -> None:
        """Answer for what names stand for now, unless the engine cannot load one of them."""
        front = self.front
        try:
            if changed:
                await self._start(changed)
        except PeftNbError as error:
            for name, target in (changed or {}).items():
                if target != front.targets[name]:
                    self._refuse(name, target, error)
            return
        front.troubles.pop("", None)

    def _read(self, first: bool = False) -> dict[str, targets.Target] | None:
        """Look up what the names stand for now, with all files written; None if nothing is different."""
        front, given, base = self.front, self.service, Path(self.service.base_folder)
        known = dict(front.targets)
        now: dict[str, targets.Target] = {}
        target = None
        for name, word in given.names.items():
            try:
                target = targets.read(self.store, name, word)
                if target == self.refused.get(name):
                    now[name] = known[name]
                    continue
                if target != known.get(name):
                    targets.check([target, *now.values()])
                    wanted = targets.versions((known | now | {name: target}).values())
                    adapter_gguf.check_memory(wanted, Path(given.base_file))
                    for version in target.versions:
                        if version.index:
                            front.open(version.index)
                        front.files[version.run] = self.kind.files(version, given.base_file, base, given.outtype)
                now[name] = target
                self.refused.pop(name, None)
                front.troubles.pop(name, None)
            except (PeftNbError, OSError) as error:
                if first:
                    raise
                self._refuse(name, target if target and target.name == name else None, error)
                now[name] = known[name]
        return None if now == known else now

    def _refuse(self, name: str, target: targets.Target | None, error: Exception) -> None:
        """Leave a name what it stands for, and say why; the same is not tried again."""
        self.front.troubles[name] = f"{name}: {error}; {self.front.targets[name].main.label} goes on answering"
        if target:
            self.refused[name] = target

    def _loads(self, wanted: dict[str, targets.Target]) -> list[Load]:
        """What engines have to hold for some targets: the base with its LoRAs, and each merged model."""
        service = self.service
        found: dict[str, dict[str, None]] = {service.base_file: {}}
        for version in targets.versions(wanted.values()):
            files = self.front.files[version.run]
            adapters = found.setdefault(files.model, {})
            if files.adapter:
                adapters[files.adapter] = None
        how = service.slots, service.context, service.threads
        return [Load(model, tuple(adapters), *how) for model, adapters in found.items()]

    async def _start(self, wanted: dict[str, targets.Target]) -> None:
        """Start the engines that are lacking for some targets, and let all answer once they do."""
        before, now = {one.load.model: one for one in self.engines if one.alive}, dict[str, Engine]()
        try:
            for load in self._loads(wanted):
                engine = before.get(load.model)
                if not engine or not await asyncio.to_thread(engine.adopt, load):
                    engine = now[load.model] = self.kind(load)
                    await asyncio.to_thread(engine.wait)
                now[load.model] = engine
        except BaseException:
            for one in now.values():
                if one not in self.engines:
                    one.close()
            raise
        self.engines = [*now.values()]
        self.front.use(now, wanted)
        for old in before.values():
            if old not in self.engines:
                task = asyncio.create_task(self._drain(old))
                self.draining.add(task)
                task.add_done_callback(self.draining.discard)

    async def _drain(self, engine: Engine) -> None:
        """Let an engine that was replaced finish, and end it."""
        until = time.monotonic() + DRAIN_S
        while engine.busy and engine.alive and time.monotonic() < until:
            await asyncio.sleep(LOOK_S / 5)
        await asyncio.to_thread(engine.close)


def run(service: Service, tell: Callable[[str], None]) -> None:
    """Serve until told to end.

    Parameters
    ----------
    service : Service
        What to serve.
    tell : callable
        Told the address once requests are answered.

    Raises
    ------
    PeftNbError
        If it cannot start or go on.
    """
    logging.getLogger("tornado.access").setLevel(logging.ERROR)

    async def work() -> None:
        await Process(service, tell).run()

    asyncio.run(work())


def main() -> None:
    """Serve what standard input tells, and tell on standard output where, or what is wrong."""

    def tell(**said: Any) -> None:
        print(json.dumps(said), flush=True)

    try:
        run(Service.from_json(sys.stdin.readline()), partial(tell_address, tell))
    except PeftNbError as error:
        tell(error=str(error))
        sys.exit(str(error))


def tell_address(tell: Callable[..., None], address: str) -> None:
    """Tell where the service listens, and let go of whoever listened for that."""
    tell(address=address)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


if __name__ == "__main__":
    main()

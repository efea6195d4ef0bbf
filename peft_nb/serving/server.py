"""A server as the notebook sees it: started, asked how it stands, stopped; also one that another kernel started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import Request

import psutil

from peft_nb.errors import RunError
from peft_nb.events import Progress
from peft_nb.serving import adapter_gguf, targets
from peft_nb.serving.engine import here
from peft_nb.serving.engines import chosen
from peft_nb.serving.service import LOOPBACK, Service, key_of, run
from peft_nb.store import Store
from peft_nb.system import files, resources

ANSWER_S = 2.0


class Server:
    """A serving process.

    Attributes
    ----------
    address : str
        Where it listens, such as ``http://127.0.0.1:8000``.
    names : tuple of str
        What it serves, as requests write it.
    key_from : str or None
        Environment variable of its key.
    """

    def __init__(self, owner: str, address: str, names: Sequence[str], key_from: str | None) -> None:
        self.owner, self.address, self.names, self.key_from = owner, address, tuple(names), key_from
        self.process: subprocess.Popen[str] | None = None
        self.stopped = False

    def __repr__(self) -> str:
        return f"<Server of {', '.join(self.names)} at {self.address}, {self.status()['state']}>"

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        if self.process:
            return self.process.poll() is None
        return files.alive(self.owner) is True

    def status(self) -> dict[str, Any]:
        """Ask how it stands.

        Returns
        -------
        dict
            ``state`` is ``ready``, ``loading``, ``stopped``, ``ended`` or ``not answering``; with ``why`` where it is
            none of the first two, else with what the server counts.
        """
        if not self.alive:
            return {"state": "stopped" if self.stopped else "ended", "why": self._why()}
        try:
            headers = {"Authorization": f"Bearer {key_of(self.key_from)}"} if self.key_from else {}
            with here(Request(f"{self.address}/status", headers=headers), timeout=ANSWER_S) as answer:
                told: dict[str, Any] = json.load(answer)
                return told
        except (OSError, ValueError, RunError) as error:
            return {"state": "not answering", "why": str(error)} if self.alive else self.status()

    def _why(self) -> str:
        if self.stopped:
            return "stopped"
        code = self.process.returncode if self.process else None
        if code is not None and code < 0:
            return f"its process was killed by signal {-code}"
        return "its process has ended" + (f" with code {code}" if code else "")

    def stop(self, wait_s: float = 10.0) -> None:
        """End it and its engine, and wait for that."""
        self.stopped = True
        with suppress(psutil.NoSuchProcess):
            if self.alive:
                process = psutil.Process(int(self.owner.partition("-")[0]))
                process.terminate()
                until = time.monotonic() + wait_s
                while self.alive and time.monotonic() < until:
                    time.sleep(0.02)
                if self.alive:
                    process.kill()
        if self.process:
            self.process.wait()


def prepared(
    names: Mapping[str, str],
    store: Store,
    progress: Progress,
    *,
    host: str = "127.0.0.1",
    key_from: str | None = None,
    engine: str | None = None,
    outtype: str | None = None,
    **options: Any,
) -> Service:
    """Check all that can be checked before a server starts, and write the files that it needs.

    Parameters
    ----------
    names : mapping of str to str
        As of :class:`.service.Service`.
    store : Store
        Where the runs are.
    progress : callable
        Told how far files are written.
    host : str
        Address to listen on; one that others can reach needs a key.
    key_from : str or None
        Environment variable that holds a key.
    engine : str or None
        What answers; by default what :func:`.engines.chosen` chooses.
    outtype : str or None
        How llama.cpp holds the base's weights, as of :func:`peft_nb.adapters.gguf.write_model`; by default f16.
    **options
        Other fields of :class:`.service.Service`.

    Raises
    ------
    PeftNbError
        In one line.
    """
    if host not in LOOPBACK and not key_of(key_from):
        raise RunError(f"--host {host} can be reached by others; require a key with --key-from VARIABLE")
    key_of(key_from)
    found = [targets.read(store, name, word) for name, word in names.items()]
    targets.check(found)
    wanted = targets.versions(found)
    kind = chosen(engine, wanted, {*options, *(["outtype"] if outtype else [])})
    outtype = outtype or "f16"
    folder = adapter_gguf.base_folder(wanted[0].model, progress)
    base = kind.base(folder, outtype, progress)
    adapter_gguf.check_memory(wanted, base)
    for version in wanted:
        what = f"merging {version.label}" if version.merged else f"writing the adapter of {version.label}"
        progress(0.0, f"{what} for {kind.name}")
        kind.files(version, str(base), folder, outtype, apart=False)
    threads = options.pop("threads", None) or resources.cores()
    options |= {"host": host, "key_from": key_from, "engine": kind.name, "outtype": outtype, "threads": threads}
    return Service({**names}, str(store.folder), str(folder), str(base), **options)


def start(service: Service, detach: bool = False) -> Server:
    """Start a serving process and wait until it answers.

    Parameters
    ----------
    service : Service
        What to serve.
    detach : bool, default False
        Whether it goes on when this process has ended.

    Raises
    ------
    RunError
        With what kept it from starting.
    """
    service = replace(service, owner=None if detach else files.owner())
    log = Path(service.store) / "servers" / f"{os.getpid()}-{time.time_ns()}.log"
    if not running(Store(service.store)):
        for old in log.parent.glob("*.log"):
            old.unlink(missing_ok=True)
    with files.writing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "peft_nb.serving.service"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # an interrupt of the notebook is not meant for it
        )
    finally:
        os.close(errors)
    assert process.stdin
    assert process.stdout
    process.stdin.write(service.to_json() + "\n")
    process.stdin.close()
    try:
        line = process.stdout.readline()
    except BaseException:
        process.terminate()
        raise
    finally:
        process.stdout.close()
    told = json.loads(line) if line.strip() else {}
    if "address" not in told:
        process.wait()
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise RunError(
            told.get("error") or f"the server ended while it started: {said[-1] if said else 'without a word'}"
        )
    server = Server(files.owner(process.pid), told["address"], [*service.names, *service.routers], service.key_from)
    server.process = process
    return server


def running(store: Store) -> list[Server]:
    """List the servers of a store that run, whoever started them."""
    found = []
    for state in sorted((store.folder / "servers").glob("*.json")):
        with suppress(OSError, ValueError, KeyError):
            told = json.loads(state.read_text(encoding="utf-8"))
            server = Server(told["owner"], told["address"], told["names"], told["key_from"])
            if server.alive:
                found.append(server)
            else:
                state.unlink(missing_ok=True)
    return found


def foreground(service: Service) -> None:
    """Serve in this process until it is interrupted."""
    run(service, lambda address: print(f"serving {', '.join(service.names)} at {address}", flush=True))

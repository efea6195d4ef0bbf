"""llama.cpp's own server in a process of its own: a model once, and beside it one LoRA for each version.

The engine ends with the process that started it, even a killed one: its standard input then closes.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peft_nb.errors import ModelError, RunError
from peft_nb.serving.slots import Slots

# Threads that wait for each other by spinning keep the ones they wait for from the core, where anything else runs too:
# on two cores of which one was busy, answers took ten times as long.
WAITING = {"OMP_WAIT_POLICY": "passive"}


@dataclass(frozen=True)
class Load:
    """What an engine holds and how much it may do at once.

    Attributes
    ----------
    model : str
        GGUF file of the base model, or of one with an adapter in its weights.
    adapters : tuple of str
        GGUF files of LoRAs.
    slots : int
        Requests that are answered at the same time.
    context : int
        Longest prompt and answer together, in tokens.
    threads : int
        Of the processor.
    """

    model: str
    adapters: tuple[str, ...]
    slots: int
    context: int
    threads: int


class Engine:
    """An engine that was started; :meth:`wait` says when it answers.

    Parameters
    ----------
    load : Load
        What it holds.

    Attributes
    ----------
    address : str
        Where it listens, on this machine only; with the key that nobody else knows.
    busy : int
        Requests that it is at work on.
    slots : Slots
        Where it computes them.
    """

    def __init__(self, load: Load) -> None:
        self.load = load
        self.busy = 0
        self.slots = Slots(load.slots)
        self.address = ""
        self.began = time.monotonic()
        self.key = secrets.token_urlsafe(24)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "peft_nb.serving.engine"],
            env={**WAITING, **os.environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"load": asdict(load), "key": self.key}) + "\n")
        self.process.stdin.flush()

    def wait(self) -> None:
        """Wait until it answers, or raise what kept it from that."""
        assert self.process.stdout
        told = self.process.stdout.readline()
        if not told:
            raise RunError(f"llama.cpp ended with {self.process.wait()} while it was loading; its log says why")
        said = json.loads(told)
        if "error" in said:
            self.close()
            raise ModelError(said["error"])
        self.address = said["address"]

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process.poll() is None

    def scales(self, adapter: str | None) -> list[dict[str, float]]:
        """Say how much of each LoRA a request gets: all of one, and nothing of the others.

        llama.cpp takes those that a request leaves out, and all in a request without a list, as they were loaded.
        """
        if adapter is not None and adapter not in self.load.adapters:
            raise RunError(f"{Path(adapter).name} is not loaded")
        return [{"id": id, "scale": float(one == adapter)} for id, one in enumerate(self.load.adapters)]

    @contextmanager
    def slot(self, adapter: str | None, asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Give what a request is told beside what is asked: how much of each LoRA it gets, and where it is computed."""
        prompt = asked.get("prompt") or "\n".join(str(one.get("content")) for one in asked["messages"])
        with self.slots.of(adapter, prompt, several=(asked.get("n") or 1) != 1) as place:
            yield {"lora": self.scales(adapter), **place}

    def close(self) -> None:
        """End it."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def parameters(load: Load, key: str) -> Any:
    """Write down for llama.cpp what it shall load."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = load.model
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in load.adapters]
    params.n_parallel = load.slots
    params.n_ctx = load.slots * load.context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = load.threads
    params.api_keys = [key]
    # Beside what a slot holds, llama.cpp would take what was computed with another adapter (its issue 26207).
    params.cache_prompt = params.cache_idle_slots = False
    params.cache_ram_mib = 0
    params.fit_params = params.ui = params.endpoint_slots = params.warmup = False
    params.verbosity = 1  # errors alone: texts of requests belong into no log
    return params


def check_installed() -> None:
    """Refuse to serve where llama.cpp is not installed."""
    from importlib.util import find_spec

    if find_spec("xllamacpp") is None:
        raise RunError("to serve, install llama.cpp for Python: pip install 'peft_nb[export]'")


def main() -> None:
    """Be an engine: told on standard input what to load, it says its address and works until that input closes."""
    import xllamacpp

    told = json.loads(sys.stdin.readline())
    load = Load(**{**told["load"], "adapters": tuple(told["load"]["adapters"])})
    try:
        server = xllamacpp.Server(parameters(load, told["key"]))
        print(json.dumps({"address": server.listening_address}), flush=True)
        sys.stdin.read()
    except RuntimeError as error:
        print(
            json.dumps({"error": f"llama.cpp cannot load {Path(load.model).name} with its adapters: {error}"}),
            flush=True,
        )
    os._exit(0)  # its threads are not waited for


if __name__ == "__main__":
    main()

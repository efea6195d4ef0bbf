"""What all engines have in common: a process with a model and adapters on it, which answers on this machine alone.

An engine ends with the process that started it, even a killed one: its standard input then closes.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import ProxyHandler, build_opener

from peft_nb.errors import ModelError, RunError
from peft_nb.events import Progress
from peft_nb.serving.targets import Version

here = build_opener(ProxyHandler({})).open  # a proxy of the network does not lead back to this machine


@dataclass(frozen=True)
class Files:
    """What an engine answers with: a model of so many MB, and the adapter on it, if any."""

    model: str
    adapter: str | None = None
    mb: float = 0.0


@dataclass(frozen=True)
class Load:
    """What an engine holds and how much it may do at once.

    Attributes
    ----------
    model : str
        The base model, or one with an adapter in its weights, as the engine loads it.
    adapters : tuple of str
        LoRAs, as the engine loads them.
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


class Engine(ABC):
    """An engine that was started; :meth:`wait` says when it answers.

    Parameters
    ----------
    load : Load
        What it holds.

    Attributes
    ----------
    name : str
        As ``--engine`` takes it.
    options : frozenset of str
        Of ``%peft serve`` those that this engine alone has.
    mixes, blends : bool
        Whether requests for different adapters are computed together, and whether several can answer one request.
    environment : dict of str to str
        What its process gets besides, unless it is set already.
    address : str
        Where it listens, on this machine only; with the key that nobody else knows.
    busy : int
        Requests that it is at work on.
    """

    name: ClassVar[str]
    options: ClassVar[frozenset[str]] = frozenset()
    mixes: ClassVar[bool] = False
    blends: ClassVar[bool] = False
    environment: ClassVar[Mapping[str, str]] = {}

    def __init__(self, load: Load) -> None:
        self.load = load
        self.busy = 0
        self.address = ""
        self.began = time.monotonic()
        self.key = secrets.token_urlsafe(24)
        self.process = subprocess.Popen(
            [sys.executable, "-m", type(self).__module__],
            env={**self.environment, **os.environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"load": asdict(load), "key": self.key}) + "\n")
        self.process.stdin.flush()

    @staticmethod
    @abstractmethod
    def missing() -> str:
        """Why it cannot run on this machine, with how to change that; nothing where it can."""

    @staticmethod
    @abstractmethod
    def refusal(version: Version) -> str:
        """Why it cannot answer as a version; nothing where it can."""

    @staticmethod
    @abstractmethod
    def base(folder: Path, outtype: str, progress: Progress) -> Path:
        """Give a base model, which is a plain folder, as the engine loads it."""

    @staticmethod
    @abstractmethod
    def files(version: Version, base: str, folder: Path, outtype: str, apart: bool = True) -> Files:
        """Write what a version is answered with, unless it is there; ``apart``: in a process that has PyTorch."""

    @abstractmethod
    def slot(self, adapters: Mapping[str, float], asked: Mapping[str, Any]) -> AbstractContextManager[dict[str, Any]]:
        """Give what it is told beside what is asked, so that it answers with adapters, inside the ``with``."""

    @abstractmethod
    def adopt(self, load: Load) -> bool:
        """Hold what another load holds too; False where that takes another engine."""

    def wait(self) -> None:
        """Wait until it answers, or raise what kept it from that."""
        assert self.process.stdout
        told = self.process.stdout.readline()
        if not told:
            raise RunError(f"{self.name} ended with {self.process.wait()} while it was loading; its log says why")
        said = json.loads(told)
        if "error" in said:
            self.close()
            raise ModelError(said["error"])
        self.address = said["address"]

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process.poll() is None

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


def told() -> tuple[Load, str]:
    """Read in the engine's process what it shall hold, and its key."""
    said = json.loads(sys.stdin.readline())
    return Load(**{**said["load"], "adapters": tuple(said["load"]["adapters"])}), said["key"]


def tell(**said: str) -> None:
    """Tell whoever started the engine its address, or what is wrong."""
    print(json.dumps(said), flush=True)

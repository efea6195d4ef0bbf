"""``local:N``: several processes of this machine train a run together, and tell this one what happens.

They are started afresh, not forked, and find each other by PyTorch's own means (gloo on the CPU, NCCL on GPUs). Each
gets its share of the cores, or a GPU of its own. Job, rows and the wish to stop go through their standard input,
messages come through their standard output: nothing listens on the network but PyTorch, on loopback.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from peft_nb.data.table import Table
from peft_nb.errors import RunError
from peft_nb.events import Notice, Preparing
from peft_nb.runs.context import Context
from peft_nb.runs.executors import relay
from peft_nb.runs.executors.job import Job, pack
from peft_nb.runs.pipeline import Outcome
from peft_nb.spec.place import Place
from peft_nb.system import resources
from peft_nb.system.resources import THREADS
from peft_nb.training.stop import Abandoned

if TYPE_CHECKING:
    from peft import PeftModel

WORKER = "peft_nb.runs.executors.worker"  # the module that is executed
LOOK_S = 0.1  # between two looks at the stop flag
PATIENCE_S = 10.0  # for processes that were told to give up the current step


class Processes:
    """Executes runs in processes of this machine.

    Parameters
    ----------
    place : Place
        How many.
    """

    def __init__(self, place: Place) -> None:
        self.count = place.workers

    def train(
        self,
        context: Context,
        table: Table | None,
        *,
        hold: Callable[[PeftModel, Any], None],
        curve: Callable[[], list[dict[str, Any]]],
    ) -> Outcome:
        """Do what :func:`peft_nb.runs.pipeline.train` does, elsewhere; the model stays there."""
        given = {"job": Job.of(context, resumed=table is None).to_json(), "rows": pack(context, table)}
        line = json.dumps({**given, "folder": str(context.folder)}) + "\n"
        if self.count > resources.cores():
            told = f"{self.count} processes share {resources.cores()} cores, and wait for each other"
            context.publish(Notice(told, "warning", f"take local:{resources.cores()}, unless each has a GPU"))
        context.publish(Preparing(f"starting {self.count} process{'es' * (self.count > 1)}"))
        with self._started() as crew:
            for member in crew:
                with suppress(OSError):  # it died, and will be asked why
                    member.say(line)
            return self._follow(context, crew)

    @contextmanager
    def _started(self) -> Iterator[list[Member]]:
        messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        with ExitStack() as stack:
            shared = dict.fromkeys(THREADS, str(resources.worker_threads(self.count)))
            shared |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TOKENIZERS_PARALLELISM": "false"}
            if self.count > 1:  # one alone is to find nobody, and would copy its gradients for nothing
                shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
                shared |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(self.count))
                if sys.platform == "linux":
                    shared["GLOO_SOCKET_IFNAME"] = "lo"
            crew = []
            for rank in range(self.count):
                own = dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)) if self.count > 1 else {}
                crew.append(stack.enter_context(Member(rank, {**os.environ, **shared, **own}, messages)))
            yield crew

    def _follow(self, context: Context, crew: list[Member]) -> Outcome:
        """Pass on what is told until the run is over."""
        said, late = set[str](), 0.0
        messages = crew[0].messages
        while True:
            for word, flag in (("soon", context.stop.soon), ("now", context.stop.now)):
                if flag.is_set() and word not in said:
                    said.add(word)
                    late = time.monotonic() + PATIENCE_S if word == "now" else 0.0
                    for member in crew:
                        with suppress(OSError):
                            member.say(f"{word}\n")
            if late and time.monotonic() > late:
                raise Abandoned
            try:
                rank, message = messages.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            if message is None:
                if crew[rank].done:
                    continue
                if "now" in said:
                    raise Abandoned
                raise RunError(crew[rank].obituary(self.count))
            crew[rank].ended |= message[0] == "end"
            if outcome := relay.take(context, *message):
                return outcome


Message = tuple[int, "tuple[str, dict[str, Any]] | None"]
"""Of which process, and what it told; None as it went."""


class Member:
    """One of the processes; leaving its context ends it.

    Parameters
    ----------
    rank : int
        Which one.
    environment : dict
        Its environment.
    messages : queue
        Where what it tells is put.
    """

    def __init__(self, rank: int, environment: dict[str, str], messages: queue.SimpleQueue[Message]) -> None:
        self.rank, self.messages, self.ended = rank, messages, False
        self._last: deque[str] = deque(maxlen=1)  # line that it wrote to standard error
        self._process = subprocess.Popen(
            [sys.executable, "-m", WORKER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # an interrupt of the kernel is told, not sent
        )
        threading.Thread(target=self._listen, name=f"peft_nb-process-{rank}", daemon=True).start()
        self._overhearing = threading.Thread(target=self._overhear, name=f"peft_nb-errors-{rank}", daemon=True)
        self._overhearing.start()

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *raised: object) -> None:
        if raised[0] is not None:
            self._process.kill()
        with suppress(OSError):
            assert self._process.stdin
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def say(self, line: str) -> None:
        """Tell the process something."""
        assert self._process.stdin
        self._process.stdin.write(line)
        self._process.stdin.flush()

    @property
    def done(self) -> bool:
        """Whether a process that is gone did all that it had to."""
        return self._process.wait() == 0 and (self.ended or self.rank > 0)

    def obituary(self, count: int) -> str:
        """Say in one line why the process ended before the run did."""
        code = self._process.wait()
        self._overhearing.join(PATIENCE_S)
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        why = "; most likely memory ran out" if code == -9 else f": {self._last[0]}" if self._last else ""
        fix = "resume() goes on from the last checkpoint"
        return f"process {self.rank + 1} of {count} died ({how}{why}); {fix}"

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.messages.put((self.rank, tuple(json.loads(line))))
        self._process.wait()
        self.messages.put((self.rank, None))

    def _overhear(self) -> None:
        assert self._process.stderr
        self._last.extend(line.strip() for line in self._process.stderr if line.strip())


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])

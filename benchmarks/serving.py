"""Ten adapters over one base, asked by 1, 8 and 32 clients at once: `%peft serve` against one transformers process.

    python benchmarks/serving.py [--model smollm2-135m or tiny] [--seconds 60] [--clients 1 8 32]
                                 [--by f16 q8_0 transformers] [--slots 8]

Every client asks a random adapter one of four questions, which begin differently, again and again, greedily. Before,
each question is put to each adapter by one client alone; an answer under load is compared with that. `another's` counts
answers that are those of another adapter, `other` those that are nobody's (batches round otherwise, and a near tie may
fall differently), `lost` requests without an answer. transformers answers in this process, without HTTP: as many as
wait in one batch, each with its own adapter. After each outtype the engine and then the server are killed.

The adapters are LoRA of rank 8 on all linear layers with random values, so that all answer differently.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import Request, urlopen

import psutil
from switchboard import adapters, tiny

from peft_nb import Switchboard
from peft_nb.events import StatusChanged, silent
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from peft_nb.serving import server
from peft_nb.serving.server import Server
from peft_nb.serving.service import Service
from peft_nb.serving.traffic import quantile
from peft_nb.spec import RunSpec
from peft_nb.store import Store

ADAPTERS, TOKENS = 10, 24
PROMPTS = (
    "Where is my order number 4711?",
    "Can I pay by invoice, and until when?",
    "My screen stays black after the last update.",
    "How do I send back two of the three shirts?",
)
Answers = dict[tuple[str, str], str]  # by adapter and prompt
Ask = Callable[[str, str], tuple[str, int]]  # an adapter and a prompt, for an answer and its tokens


@dataclass
class Measured:
    """What clients saw."""

    seconds: float
    took: list[float] = field(default_factory=list)
    tokens: int = 0
    equal: int = 0
    anothers: int = 0
    other: int = 0
    lost: int = 0

    def row(self, what: str, clients: int) -> str:
        """A row of the table."""
        took = sorted(self.took)
        p50, p95 = (f"{quantile(took, part) or 0:.2f}" for part in (0.5, 0.95))
        rates = f"{len(took) / self.seconds:.2f} | {self.tokens / self.seconds:.1f}"
        return f"| {what} | {clients} | {rates} | {p50} | {p95} | {self.anothers} | {self.other} | {self.lost} |"


HEAD = """| what | clients | requests/s | tokens/s | p50 s | p95 s | another's | other | lost |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def stored(model: str, folders: Sequence[Path], store: Store) -> dict[str, str]:
    """Enter adapters as finished runs; give what they are served as, and their ids."""
    names = {}
    for number, folder in enumerate(folders):
        name = f"adapter-{number}"
        spec = RunSpec(data="(none)", model=model, name=name)
        id = store.create(spec.to_yaml(), method="lora", model=model, name=name)
        shutil.copytree(folder, store.folder_of(id) / "adapter")
        store.record(id, StatusChanged("finished"))
        names[name] = id
    return names


def over_http(served: Server) -> Ask:
    """Ask a server."""

    def ask(adapter: str, prompt: str) -> tuple[str, int]:
        body = {"model": adapter, "messages": [{"role": "user", "content": prompt}], "max_tokens": TOKENS}
        request = Request(
            f"{served.address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urlopen(request, timeout=300) as answer:
            told = json.load(answer)
        return told["choices"][0]["message"]["content"].strip(), told["usage"]["completion_tokens"]

    return ask


class Batches:
    """One transformers process: whatever waits is answered in one batch."""

    def __init__(self, board: Switchboard, tokenizer: object) -> None:
        self.board, self.tokenizer = board, tokenizer
        self.waiting: queue.Queue[tuple[str, str, queue.Queue[str]]] = queue.Queue()
        threading.Thread(target=self._work, daemon=True).start()

    def ask(self, adapter: str, prompt: str) -> tuple[str, int]:
        """Wait for an answer."""
        answered: queue.Queue[str] = queue.Queue()
        self.waiting.put((adapter, prompt, answered))
        answer = answered.get(timeout=300)
        return answer, len(self.tokenizer(answer)["input_ids"])  # type: ignore[operator]

    def _work(self) -> None:
        while True:
            got = [self.waiting.get()]
            while not self.waiting.empty() and len(got) < 32:
                got.append(self.waiting.get())
            names, prompts, answered = zip(*got, strict=True)
            for reply, answer in zip(
                answered, self.board.generate(prompts, adapter=names, max_new_tokens=TOKENS), strict=True
            ):
                reply.put(answer)


def under_load(
    ask: Ask, names: Sequence[str], alone: dict[tuple[str, str], str], clients: int, seconds: float
) -> Measured:
    """Let clients ask for some time."""
    measured, lock, until = Measured(seconds), threading.Lock(), time.monotonic() + seconds

    def client(number: int) -> None:
        draw = random.Random(number)
        while (began := time.monotonic()) < until:
            name, prompt = draw.choice(names), draw.choice(PROMPTS)
            try:
                answer, tokens = ask(name, prompt)
            except (OSError, queue.Empty):
                with lock:
                    measured.lost += 1
                continue
            with lock:
                measured.took.append(time.monotonic() - began)
                measured.tokens += tokens
                if answer == alone[name, prompt]:
                    measured.equal += 1
                elif answer in {alone[other, prompt] for other in names}:
                    measured.anothers += 1
                else:
                    measured.other += 1

    began = time.monotonic()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    measured.seconds = time.monotonic() - began
    return measured


def at_every_level(what: str, ask: Ask, names: Sequence[str], alone: Answers, given: argparse.Namespace) -> None:
    """Print a row for each number of clients."""
    for clients in given.clients:
        print(under_load(ask, names, alone, clients, given.seconds).row(what, clients), flush=True)


def once(ask: Ask, names: Sequence[str]) -> Answers:
    """Put every question to every adapter, one after the other."""
    alone = {(name, prompt): ask(name, prompt)[0] for name in names for prompt in PROMPTS}
    different = len({alone[name, PROMPTS[0]] for name in names})
    print(f"{different} of {len(names)} adapters answer the first question differently", flush=True)
    return alone


def killed(served: Server, ask: Ask, names: Sequence[str], alone: Answers) -> None:
    """Kill the engine while 8 clients ask, then the server."""
    process = psutil.Process(int(served.owner.partition("-")[0]))
    threading.Timer(2, process.children()[0].kill).start()
    measured = under_load(ask, names, alone, 8, 6)
    said = f"{measured.lost} lost, {measured.anothers} of another adapter"
    print(f"the engine killed under 8 clients: {len(measured.took)} answers, {said}")
    os.kill(process.pid, signal.SIGKILL)
    began = time.monotonic()
    while served.status()["state"] not in ("ended", "stopped"):
        time.sleep(0.01)
    print(f"the server killed: noticed after {time.monotonic() - began:.2f} s, {served.status()}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--by", nargs="+", default=["f16", "q8_0", "transformers"])
    parser.add_argument("--slots", type=int, default=Service.slots)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = str(tiny(folder / "tiny")) if given.model == "tiny" else given.model
        base = load(resolve(model))
        folders = adapters(base.model, ADAPTERS, folder, std=0.05)
        store = Store(folder / "store")
        names = stored(model, folders, store)
        words = list(names)
        print(HEAD)
        for outtype in given.by:
            if outtype == "transformers":
                board = Switchboard((base.model, base.tokenizer), *folders)
                batches = Batches(board, base.tokenizer)
                plain = [each.name for each in folders]
                at_every_level(outtype, batches.ask, plain, once(batches.ask, plain), given)
                continue
            began = time.monotonic()
            service = server.prepared(names, store, silent, context=512, outtype=outtype, slots=given.slots)
            wrote = time.monotonic() - began
            served = server.start(service)
            took = f"files written in {wrote:.1f} s, server started in {time.monotonic() - began - wrote:.1f} s"
            print(f"{model} in {outtype}: {took}", flush=True)
            try:
                ask = over_http(served)
                alone = once(ask, words)
                at_every_level(f"peft serve, {outtype}", ask, words, alone, given)
                killed(served, ask, words, alone)
            finally:
                served.stop()
        store.close()


if __name__ == "__main__":
    main()

"""Ten adapters over one base, asked by 1, 8 and 32 clients at once: `%peft serve` against one transformers process.

    python benchmarks/serving.py [--model smollm2-135m] [--seconds 60] [--clients 1 8 32]
                                 [--by f16 q8_0 transformers] [--slots 8]

Every client asks a random adapter one of four questions, again and again. Each adapter says a word of its own over and
over, by so much that no rounding changes it, so that an answer tells whose it is: `another's` counts answers that are
another adapter's, `other` those that are nobody's, `lost` requests without an answer. transformers answers in this
process, without HTTP: as many as wait in one batch, each with its own adapter. After each outtype the engine and then
the server are killed.

The adapters are LoRA of rank 8 on all linear layers with random values, so that they cost what trained ones cost, and
have keys and values of their own. The word comes from one rank in the last layer: in every second adapter from the
values of its attention, so that an answer to a prompt that another adapter has computed has that one's word; in the
others from its MLP, which tells with which adapter the answer itself was computed.
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
from typing import Any
from urllib.request import Request, urlopen

import psutil
import torch
from peft import LoraConfig, get_peft_model

from peft_nb import Switchboard
from peft_nb.events import StatusChanged, silent
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from peft_nb.models.share import share
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
LOUD = 1e4  # what an adapter adds to the last layer; everything else there is some hundreds
MARGIN = 0.03  # of the logit of an adapter's word over all others, as a share of it, at every place of every answer
TRIES = 50  # random directions
Answers = dict[tuple[str, str], str]  # by adapter and prompt
Ask = Callable[[str, str], tuple[str, int]]  # an adapter and a prompt, for an answer and its tokens


@dataclass
class Measured:
    """What clients saw."""

    seconds: float
    took: list[float] = field(default_factory=list)
    tokens: int = 0
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


@torch.no_grad()
def repeating(base: Any, tokenizer: Any, count: int, folder: Path) -> list[Path]:
    """Write adapters of which each answers the questions with a word of its own, over and over.

    One rank reads from the last layer's input what is the same at all places of these conversations (by least squares),
    and writes a random direction; the word is the one whose embedding is nearest to that.
    """
    model = get_peft_model(share(base), LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
    body, head = model.base_model.model.model, model.base_model.model.lm_head
    chats = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
        )
        for prompt in PROMPTS
    ]
    longest, seen = max(map(len, chats)), list[torch.Tensor]()

    def answering(word: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What the last layer reads where all answers are this word, and the logits of the answers."""
        rows = [[*ids, *[word] * (TOKENS + longest - len(ids))] for ids in chats]
        hidden = body(torch.tensor(rows)).last_hidden_state
        told = [hidden[row, len(ids) - 1 : len(ids) + TOKENS] for row, ids in enumerate(chats)]
        return seen.pop().flatten(0, 1).float(), head(torch.cat(told)).float()

    words = [tokenizer.decode([word]) for word in range(head.out_features)]
    taken = {*tokenizer.all_special_ids} | {
        word for word, text in enumerate(words) if not text.strip() or "\ufffd" in text
    }
    folders = []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.02 if "lora_B" in name else weight.shape[1] ** -0.5, generator=generator)
        part = body.layers[-1].self_attn.v_proj if number % 2 else body.layers[-1].mlp.down_proj
        reads, writes = part.lora_A["default"].weight[0], part.lora_B["default"].weight[:, 0]
        hook = part.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        for _ in range(TRIES):
            writes.copy_(torch.randn(writes.shape, generator=generator))
            writes *= LOUD / writes.norm()
            word, places = int(torch.randint(len(words), (), generator=generator)), list[torch.Tensor]()
            for _ in range(3):  # the word is found at the prompts, and changes what is read at the answers
                places.append(answering(word)[0])
                found = torch.cat(places)
                inner = found @ found.T
                inner += 0.01 * inner.diagonal().mean() * torch.eye(len(inner))
                reads.copy_(found.T @ torch.linalg.solve(inner, torch.ones(len(inner))))
                logits = answering(word)[1]
                before, word = word, int(logits[0].argmax())
            best, second = logits.topk(2).values.T
            always = before == word and bool((logits.argmax(-1) == word).all())
            if always and word not in taken and float(((best - second) / best.abs()).min()) > MARGIN:
                break
        else:
            raise SystemExit(f"no word of its own was found for adapter {number}")
        hook.remove()
        taken.add(word)
        folders.append(folder / f"adapter-{number:03}")
        model.save_pretrained(folders[-1], save_embedding_layers=False)
    return folders


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
                if answer != alone[name, prompt]:
                    whole = answer in {alone[other, prompt] for other in names}
                    measured.anothers, measured.other = measured.anothers + whole, measured.other + (not whole)

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
    assert len({*alone.values()}) == len(names), alone  # each adapter says its word, whatever it is asked
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
        base = load(resolve(given.model))
        folders = repeating(base.model, base.tokenizer, ADAPTERS, folder)
        store = Store(folder / "store")
        names = stored(given.model, folders, store)
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
            print(f"{given.model} in {outtype}: {took}", flush=True)
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

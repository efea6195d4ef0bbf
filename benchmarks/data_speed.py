"""How fast rows become examples, and how much memory that takes: peft_nb, a ``datasets.map`` script and TRL.

Each contender has a process of its own, reads the same file of prompts and completions and tokenises it for the default
model with the prompts masked; what is timed begins with the file and ends with examples on disk, imports and the
tokenizer not counted. Memory is that of the whole process, libraries included: its peak, and the peak of what is
its own, without pages of mapped files that the system takes back when it needs them.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

GSM8K = Path(__file__).parents[2] / "shared" / "data" / "gsm8k_train_1000.jsonl"
MODEL = "smollm2-135m"
MAX_LENGTH = 1024
SAMPLE_S = 0.02


@dataclass(frozen=True)
class Measurement:
    """One contender's preparation of ``rows`` rows."""

    contender: str
    rows: int
    seconds: float
    tokens: int
    supervised: int
    peak_mb: float
    own_mb: float


def write_rows(path: Path, count: int) -> None:
    """Write `count` rows, those of gsm8k where they are at hand, else the support desk's, each a little different."""
    from peft_nb.data import support_desk

    pairs: list[Any] = support_desk.load()["train"]
    if GSM8K.exists() and count <= 100_000:  # a million is meant to be of short rows
        pairs = [json.loads(line) for line in GSM8K.read_text(encoding="utf-8").splitlines()]
    with path.open("w", encoding="utf-8") as file:
        for number, pair in enumerate(islice(cycle(pairs), count)):
            question, answer = f"{number}: {pair['question']}", pair["answer"]
            row = {
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": answer}],
            }
            file.write(json.dumps(row) + "\n")


def tokenizer() -> Any:
    from transformers import AutoTokenizer

    from peft_nb.models.load import load
    from peft_nb.models.resolve import resolve

    if resolve(MODEL).path is None:
        load(resolve(MODEL))  # fetches it
    return AutoTokenizer.from_pretrained(resolve(MODEL).path)


def run_peft_nb(path: Path, folder: Path, hold_out: float = 0) -> Iterator[tuple[int, int]]:
    """Read, recognise and encode as a run does; and set a share aside, near-duplicates together."""
    from peft_nb.data import detection, encoding, sources, splits
    from peft_nb.data.rendered import RenderedRows

    made = tokenizer()
    yield 0, 0
    source = sources.read(path)
    _ = source.fingerprint
    layout = detection.detect(source.train)
    rendered = RenderedRows(source.train, layout, made)
    encoded = encoding.encode(rendered, max_length=MAX_LENGTH, folder=folder / "examples")
    if hold_out:
        texts = splits.Texts(source.train, layout, encoded.examples.rows.tolist())
        encoded.examples.parted(splits.split(texts, hold_out, seed=42)[1])
    yield encoded.report.tokens, encoded.report.supervised_tokens


def run_map(path: Path, folder: Path) -> Iterator[tuple[int, int]]:
    """The script that many write: batches through the chat template, the prompt tokenised again for the mask."""
    import datasets

    made = tokenizer()
    yield 0, 0

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        both = [prompt + answer for prompt, answer in zip(batch["prompt"], batch["completion"], strict=True)]
        asked = made.apply_chat_template(batch["prompt"], tokenize=False, add_generation_prompt=True)
        whole = made.apply_chat_template(both, tokenize=False)
        prompts = made(asked, add_special_tokens=False)["input_ids"]
        ids = made(whole, add_special_tokens=False, truncation=True, max_length=MAX_LENGTH)["input_ids"]
        labels = [[-100] * len(prompt) + one[len(prompt) :] for prompt, one in zip(prompts, ids, strict=True)]
        return {"input_ids": ids, "labels": labels}

    rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder))
    yield _counted(rows.map(encode, batched=True, remove_columns=rows.column_names))


def run_trl(path: Path, folder: Path) -> Iterator[tuple[int, int]]:
    """What TRL's SFTTrainer does with its data set before it trains; the model has nothing to do with that."""
    import datasets
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    made = tokenizer()
    small = LlamaConfig(
        vocab_size=len(made), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    settings = SFTConfig(
        str(folder / "trainer"),
        max_length=MAX_LENGTH,
        report_to="none",
        use_cpu=True,
        bf16=False,
        eos_token="<|im_end|>",
    )
    few = datasets.Dataset.from_list([json.loads(line) for line in path.open(encoding="utf-8").readlines()[:4]])
    trainer = SFTTrainer(LlamaForCausalLM(small), settings, train_dataset=few, processing_class=made)
    yield 0, 0
    rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder))
    yield _counted(trainer._prepare_dataset(rows, made, settings, False, None, "train"))


def _counted(rows: Any) -> tuple[int, int]:
    """Tokens and targets of a data set, a batch at a time."""
    tokens = supervised = 0
    for batch in rows.select_columns(["input_ids", "labels"]).with_format("arrow").iter(10_000):
        tokens += len(batch["input_ids"].combine_chunks().flatten())
        labels = batch["labels"].combine_chunks().flatten().to_numpy()
        supervised += int((labels != -100).sum())
    return tokens, supervised


CONTENDERS: dict[str, Callable[[Path, Path], Iterator[tuple[int, int]]]] = {
    "peft_nb": run_peft_nb,
    "peft_nb+split": partial(run_peft_nb, hold_out=0.1),
    "datasets.map": run_map,
    "TRL": run_trl,
}


@contextmanager
def peak_of_own_memory() -> Iterator[list[float]]:
    """The largest part of the process's memory that is its own, in MB, sampled; the list grows by one at the end."""
    import psutil

    process, over, peaks = psutil.Process(), threading.Event(), [0.0]
    found: list[float] = []

    def sample() -> None:
        while not over.wait(SAMPLE_S):
            memory = process.memory_info()
            peaks[0] = max(peaks[0], (memory.rss - getattr(memory, "shared", 0)) / 1e6)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        found.append(peaks[0])


def measure(contender: str, path: Path, rows: int) -> Measurement:
    """Let one contender prepare the file in this process."""
    with TemporaryDirectory() as folder, redirect_stdout(sys.stderr), peak_of_own_memory() as own:
        steps = CONTENDERS[contender](path, Path(folder))
        next(steps)
        start = time.perf_counter()
        tokens, supervised = next(steps)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return Measurement(contender, rows, seconds, tokens, supervised, peak, own[0])


def line(one: Measurement, first: Measurement) -> str:
    """One contender's result, and how many times slower than the first it is."""
    speed = f"{one.rows / one.seconds:8,.0f} rows/s   {one.seconds / first.seconds:5.2f} × the time"
    counts = f"{one.tokens:,} tokens, {one.supervised:,} trained on"
    return f"{one.contender:13}{speed}   peak {one.peak_mb:6,.0f} MB, own {one.own_mb:6,.0f} MB   {counts}"


def compare(rows: int, contenders: Sequence[str]) -> None:
    """Let contenders prepare the same `rows` rows, one after the other, and print a line for each."""
    quiet = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, rows)
        print(f"{rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB", flush=True)
        first = None
        for contender in contenders:
            command = [sys.executable, __file__, contender, str(path), str(rows)]
            output = subprocess.run(command, env={**os.environ, **quiet}, stdout=subprocess.PIPE, text=True, check=True)
            one = Measurement(**json.loads(output.stdout))
            first = first or one
            print(line(one, first), flush=True)


if __name__ == "__main__":
    print(json.dumps(asdict(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))))

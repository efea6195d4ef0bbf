"""Invented names and harbour jargon, spoken by espeak-ng: word error rate before and after, forgetting, seconds.

    pip install espeakng-loader && pip install --no-deps pytest-audioeval==0.1.3
    python benchmarks/speech.py [CONTENDER ...] [--names N] [--epochs N] [--steps N]

Each of 200 invented names or words of the harbour is said in a sentence by two voices to train, and in another sentence
by a third voice to test. ``lora`` is peft_nb with the encoder frozen, ``lora-all`` with the encoder adapted too;
``script`` is the usual recipe (LoRA of rank 16 on queries and values of the whole model, by transformers'
Seq2SeqTrainer), ``script-decoder`` the same on all linear layers of the decoder alone, as ``lora`` has it. A script is
timed on ``--steps`` steps after a first, and its seconds are those of as many steps as the run of peft_nb has. Seconds
of the processor (``cpu_seconds``) tell more than those of the clock where others use the machine. With ``--dtype
bfloat16`` a script computes in ``torch.autocast``, as its ``bf16`` does. Forgetting is measured on the English clips of
pytest-audioeval, where that is installed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy

from peft_nb.data import spoken_names
from peft_nb.data.audio.clip import RATE

MODEL, BATCH, SEED, RATE_OF_LEARNING = "whisper-tiny-en", 16, 0, 2e-3
Rows = list[dict[str, Any]]


def others() -> str | None:
    """The folder of English clips of pytest-audioeval."""
    found = find_spec("pytest_audioeval")
    places = (
        [Path(one) / "samples" / "audio" / "en" for one in (found.submodule_search_locations or ())] if found else []
    )
    return str(places[0]) if places else None


def ours(**fields: Any) -> Callable[[Rows, Rows, argparse.Namespace], dict[str, float]]:
    """A run of peft_nb."""

    def run(train: Rows, test: Rows, given: argparse.Namespace) -> dict[str, float]:
        from peft_nb.events import Event, StepLogged
        from peft_nb.runs.run import begin
        from peft_nb.spec import RunSpec
        from peft_nb.store import Store

        spec = RunSpec(
            data="train",
            eval_data="test",
            regression=others(),
            task="speech-recognition",
            model=MODEL,
            epochs=given.epochs,
            batch_size=BATCH,
            learning_rate=RATE_OF_LEARNING,
            warmup_steps=5,
            eval_steps=10**6,
            judge="full",
            dtype=given.dtype,
            seed=SEED,
            **fields,
        )
        start, ends = time.perf_counter(), dict[int, float]()

        def clock(event: Event) -> None:
            if isinstance(event, StepLogged):
                ends[event.step] = time.process_time()

        with tempfile.TemporaryDirectory() as scratch:
            done = begin(
                spec, namespace={"train": train, "test": test}, store=Store(Path(scratch)), listeners=[clock]
            ).wait()
            for row in done.judgement["answers"]["rows"][:4]:
                print(f"    {row['reference']} | {row['base_answer']} | {row['answer']}")
        first, last = min(ends), max(ends)
        of_cpu = (ends[last] - ends[first]) / (last - first) * last
        found = {"seconds": time.perf_counter() - start, "cpu_seconds": of_cpu, "dtype": done.facts.dtype}
        return dict(done.metrics) | found

    return run


def script(pattern: str) -> Callable[[Rows, Rows, argparse.Namespace], dict[str, float]]:
    """The usual recipe by transformers' Seq2SeqTrainer, timed on a few steps."""

    def run(train: Rows, test: Rows, given: argparse.Namespace) -> dict[str, float]:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import (
            AutoModelForSpeechSeq2Seq,
            Seq2SeqTrainer,
            Seq2SeqTrainingArguments,
            TrainerCallback,
        )

        from peft_nb.models.load import load
        from peft_nb.models.resolve import resolve

        base = load(resolve(MODEL), kind="speech")
        model = AutoModelForSpeechSeq2Seq.from_pretrained(base.folder)
        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=pattern))
        steps = 1 + given.steps
        rows = [
            {
                "input_features": base.features(row["audio"]["array"], sampling_rate=RATE).input_features[0],
                "labels": base.tokenizer(row["text"]).input_ids[1:],
            }
            for row in train[: steps * BATCH]
        ]

        def collate(some: Rows) -> dict[str, torch.Tensor]:
            longest = max(len(one["labels"]) for one in some)
            labels = [one["labels"] + [-100] * (longest - len(one["labels"])) for one in some]
            features = numpy.stack([one["input_features"] for one in some])
            return {"input_features": torch.from_numpy(features), "labels": torch.tensor(labels)}

        ends: list[tuple[float, float]] = []

        class Clock(TrainerCallback):
            def on_step_end(self, *args: Any, **named: Any) -> None:
                ends.append((time.perf_counter(), time.process_time()))

        with tempfile.TemporaryDirectory() as scratch:
            arguments = Seq2SeqTrainingArguments(
                output_dir=scratch,
                max_steps=steps,
                per_device_train_batch_size=BATCH,
                learning_rate=RATE_OF_LEARNING,
                remove_unused_columns=False,
                label_names=["labels"],
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                bf16=given.dtype == "bfloat16",
                seed=SEED,
            )
            Seq2SeqTrainer(model, arguments, train_dataset=rows, data_collator=collate, callbacks=[Clock()]).train()
        whole = given.epochs * -(-len(train) // BATCH)
        of_clock, of_cpu = ((last - first) / (steps - 1) * whole for first, last in zip(ends[0], ends[-1], strict=True))
        return {"train_seconds": of_clock, "cpu_seconds": of_cpu}

    return run


CONTENDERS: dict[str, Callable[[Rows, Rows, argparse.Namespace], dict[str, float]]] = {
    "lora": ours(r=16),
    "lora-all": ours(r=16, freeze_encoder=False),
    "script": script(r".*(q_proj|v_proj)"),
    "script-decoder": script(r".*decoder.*(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"),
}
TOLD = (
    *("base_word_error_rate", "word_error_rate", "word_error_rate_interval", "base_regression_word_error_rate"),
    *("regression_word_error_rate", "forgetting", "train_seconds", "cpu_seconds", "seconds", "dtype", "path"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contenders", nargs="*", default=list(CONTENDERS))
    parser.add_argument("--names", type=int, default=200)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    given = parser.parse_args()
    train, test = spoken_names.load(given.names).values()
    seconds = sum(len(row["audio"]["array"]) for row in train) / RATE
    print(f"{len(train)} clips to train on, {seconds:.0f} s together, and {len(test)} to test", flush=True)
    for name in given.contenders:
        found = CONTENDERS[name](train, test, given)
        print(f"{name}: " + ", ".join(f"{key} {found[key]}" for key in TOLD if found.get(key) is not None), flush=True)


if __name__ == "__main__":
    main()

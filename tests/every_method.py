"""What it takes to train every method on the tiny base."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peft_nb.methods import REGISTRY
from peft_nb.spec import METHODS

# bitfit, bottleneck and full have tests of their own.
NAMES = [name for name in METHODS if name not in {"bitfit", "bottleneck", "full"}]
WORDS = ["<|im_start|>", "<|im_end|>"]
NEEDED: dict[str, dict[str, Any]] = {
    "trainable-tokens": {"method_options": {"token_indices": [1, 2]}},
    "eva": {"r": 4},  # half the time to begin
}

# The tiny Llama: two layers of seven linear layers, as (inputs, outputs); hidden states of 64, keys of 2 × 16.
HIDDEN, LAYERS, KEYS, DEEP = 64, 2, 32, 128
LINEAR = LAYERS * [(64, 64), (64, KEYS), (64, KEYS), (64, 64), (64, DEEP), (64, DEEP), (DEEP, 64)]

# At which a tiny random model learns in a few steps; 1e-2 for the others.
RATES = {"prompt": 0.3, "prefix": 0.1, "ia3": 0.1, "trainable-tokens": 0.3, "adaption-prompt": 0.5, "p-tuning": 3e-2}
RATES |= {"adalora": 0.1, "vera": 0.1}


def logits(model: Any) -> Any:
    """Scores of five tokens; virtual tokens before them are left out."""
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor([[1, 60, 7, 2, 9]])).logits[:, -5:]


def forms(*, listed: bool) -> Iterator[tuple[str, str]]:
    """Methods with the quantizations that they are, or are not, listed for."""
    for name in NAMES:
        for quantization in ("none", "4bit", "8bit"):
            if (quantization in REGISTRY[name].quantizations) == listed:
                yield name, quantization

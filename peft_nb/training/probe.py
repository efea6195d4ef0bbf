"""What this machine does best, measured on the shapes that will be used: data type, tokens in a micro-batch."""

from __future__ import annotations

import time
from typing import Any

import torch

from peft_nb.models.load import sized_by

PROBE_TOKENS = 512
PROBE_SECONDS = 0.025
WIDEST = 16384  # of what is multiplied to find that out


def fastest_dtype(config: Any, device: str) -> str:
    """Choose the data type of the base by timing the product its layers are made of.

    A flag that says bfloat16 is supported does not say it is fast: without matrix units it is slower than float32.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        The model's config; its hidden and intermediate sizes give the shapes.
    device : str
        ``cpu``, ``cuda`` or ``mps``.

    Returns
    -------
    str
        ``float32`` or ``bfloat16``.
    """
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device != "cpu":
        return "float32"
    _, hidden, inner = (min(WIDEST, one) for one in sizes(config))
    return min(("float32", "bfloat16"), key=lambda name: _seconds(getattr(torch, name), hidden, inner))


def sizes(config: Any) -> tuple[int, int, int]:
    """Layers, width, and width inside the feed-forward part of a model; of one in stages all layers, and the last's."""
    own = sized_by(config)
    depths = getattr(own, "depths", None)
    hidden = getattr(own, "hidden_size", None) or own.hidden_sizes[-1]
    layers = sum(depths) if depths else own.num_hidden_layers
    return layers, hidden, getattr(own, "intermediate_size", None) or 4 * hidden


def _seconds(dtype: torch.dtype, hidden: int, inner: int) -> float:
    x, weight = torch.ones(PROBE_TOKENS, hidden, dtype=dtype), torch.ones(inner, hidden, dtype=dtype)
    x @ weight.t()
    best, until = float("inf"), time.perf_counter() + PROBE_SECONDS
    while time.perf_counter() < until:
        start = time.perf_counter()
        x @ weight.t()
        best = min(best, time.perf_counter() - start)
    return best


def token_budget(model: Any, available_mb: float, device: str = "cpu") -> int:
    """Tokens in a micro-batch such that what the backward pass keeps takes a third of the free memory at most.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The base, for its depth, widths and data type.
    available_mb : float
        Memory of the device that is free for this process, in MB (10^6 bytes).
    device : str, default "cpu"
        Where the model is.

    Returns
    -------
    int
        At least ``MIN_BUDGET``; on a CPU at most ``MAX_BUDGET``: more tokens at once make nothing faster there.
    """
    layers, hidden, inner = sizes(model.config)
    kept = layers * (12 * hidden + 5 * inner)
    size = next(model.parameters()).element_size()
    fitting = int(max(MIN_BUDGET, available_mb * 1e6 / 3 / (kept * max(size, 2))))
    return fitting if device == "cuda" else min(MAX_BUDGET, fitting)


MIN_BUDGET, MAX_BUDGET = 128, 2048

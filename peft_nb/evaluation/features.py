"""Inputs that are no texts as vectors: what a model makes of their places, averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy
import torch

AT_ONCE = 8  # inputs


def pooled(
    states: Callable[[Sequence[Any]], torch.Tensor], examples: Sequence[Any], places: Sequence[int] | None = None
) -> numpy.ndarray:
    """Average the last hidden states of each input.

    Parameters
    ----------
    states : callable
        From some examples to their states, of shape ``(inputs, places, width)`` or ``(inputs, width, height, width)``.
    examples : sequence of Example
        The inputs.
    places : sequence of int, optional
        How many places each really has, the first ones; by default all.

    Returns
    -------
    numpy.ndarray
        Shape ``(inputs, width)``, float32, each row of length 1.
    """
    held, found = list(examples), list[torch.Tensor]()
    with torch.inference_mode():
        for start in range(0, len(held), AT_ONCE):
            hidden = states(held[start : start + AT_ONCE]).float()
            hidden = hidden.flatten(2).mT if hidden.ndim == 4 else hidden
            for row, one in enumerate(hidden):
                mean = one[: places[start + row] if places else None].mean(0)
                found.append(torch.nn.functional.normalize(mean, dim=-1).cpu())
    return torch.stack(found).numpy()

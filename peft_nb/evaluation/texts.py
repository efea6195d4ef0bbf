"""What a head says of texts, or of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from peft_nb.training.text_objective import HeadObjective

BUDGET = 4096  # tokens at once where nothing is kept for a backward pass


def logits(
    model: torch.nn.Module,
    objective: HeadObjective,
    examples: Sequence[Any],
    device: torch.device,
    budget: int = BUDGET,
) -> torch.Tensor:
    """Compute the logits of texts, those of like lengths together.

    Parameters
    ----------
    model : torch.nn.Module
        A model with a head in evaluation mode, with the objective installed.
    objective : HeadObjective
        How a micro-batch becomes logits.
    examples : sequence of Example
        The texts, at least one; their labels are not looked at.
    device : torch.device
        Where the model is.
    budget : int
        Tokens at once; default 4096.

    Returns
    -------
    torch.Tensor
        Shape ``(texts, outputs)``, float32, on the CPU, in the order of the examples.
    """
    order = sorted(range(len(examples)), key=lambda number: -examples[number].cost)
    cut = objective.cut([examples[number] for number in order], budget)
    with torch.inference_mode():
        found = torch.cat([objective.logits(model, micro, device) for micro in cut]).cpu()
    return found[torch.tensor(order).argsort()]

"""Noise on the embeddings while training (NEFTune: Jain et al., 2023, arXiv:2310.05914), each example by its length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from peft_nb.training.draws import OwnDraws


@contextmanager
def noisy(model: Any, alpha: float | None, examples: Sequence[Any], draws: OwnDraws) -> Iterator[None]:
    """Add noise to what the input embeddings give while the context lasts.

    As in transformers it is uniform between ±alpha / sqrt(L · d) for L tokens of width d. L is an example's own number
    of tokens: in a padded row that padding has no part in, and in a row of many examples that of each.

    Parameters
    ----------
    model : PeftModel
        The model that is trained.
    alpha : float or None
        How much noise; None adds none.
    examples : sequence of Example
        Those of the micro-batch, in their order: end to end in one row, or one a row.
    draws : OwnDraws
        What the noise is drawn from.
    """
    if not alpha:
        yield
        return
    lengths = torch.tensor([len(one.ids) for one in examples])

    def add(module: nn.Module, given: Any, embedded: torch.Tensor) -> torch.Tensor:
        rows, width, size = embedded.shape
        bounds = alpha / (lengths * size).sqrt()
        if rows == 1:
            each = bounds.repeat_interleave(lengths)[None]
        else:
            each = bounds[:, None] * (torch.arange(width) < lengths[:, None])
        noise = torch.empty(embedded.shape, device=embedded.device)
        noise.uniform_(-1, 1, generator=draws.on(embedded.device))
        return embedded + (noise * each[..., None].to(embedded.device)).to(embedded.dtype)

    hook = model.get_base_model().get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def unshared(objective: Any, alpha: float | None) -> Any:
    """An objective with noise: a prefix that several examples share would have to have the noise of each."""
    return replace(objective, share_prefix=False) if alpha and objective.share_prefix else objective

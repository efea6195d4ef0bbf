"""Attention for examples that lie end to end in one row, with or without a prefix they share.

Two functions are registered with transformers' attention and mask interfaces under one name; models pass the
segment lengths through to the attention as a keyword.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

NAME = "peft_nb_segments"


class NotExact(Exception):
    """A model needs something the padding-free path does not compute; the padded path must be used."""


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    segments: Sequence[int] | None = None,
    shared_prefix: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend causally within each segment of a row.

    Parameters
    ----------
    module : torch.nn.Module
        The attention layer that calls.
    query, key, value : torch.Tensor
        Shapes ``(1, heads, tokens, head_dim)``; key and value may have fewer heads (grouped-query attention).
    attention_mask : torch.Tensor or None
        Always ``None`` here: the mask function registered beside this one makes none.
    scaling : float, optional
        Factor on the dot products; default ``head_dim ** -0.5``.
    dropout : float
        Dropout on the attention weights.
    sliding_window : int, optional
        Tokens a query sees, itself included, in models with local attention.
    softcap : float, optional
        Soft-capping of the scores, which this function does not compute.
    segments : sequence of int
        Lengths of the segments; they add up to ``tokens``.
    shared_prefix : bool
        Whether the first segment is a prefix of all the others, which then see its keys and values too.

    Returns
    -------
    tuple of torch.Tensor and None
        The output, shape ``(1, tokens, heads, head_dim)``; attention weights are never built.

    Raises
    ------
    NotExact
        If the layer asks for soft-capping or a bias on the scores.
    """
    if (
        segments is None
        or softcap is not None
        or any(kwargs.get(name) is not None for name in ("s_aux", "position_bias"))
    ):
        raise NotExact(f"{type(module).__name__} computes attention scores in its own way")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    lengths = list(segments)
    queries, keys, values = (tensor.split(lengths, dim=2) for tensor in (query, key, value))
    outputs = []
    for index, (q, k, v) in enumerate(zip(queries, keys, values, strict=True)):
        before = lengths[0] if shared_prefix and index else 0
        if before:
            k, v = torch.cat([keys[0], k], dim=2), torch.cat([values[0], v], dim=2)
        window = sliding_window if sliding_window is not None and sliding_window < k.shape[2] else None
        mask = _mask(q.shape[2], before, window, q.device) if before or window else None
        outputs.append(
            F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
            ).transpose(1, 2)
        )
    return torch.cat(outputs, dim=1), None


def _mask(queries: int, before: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Lower-right causal mask: query ``i`` sits at position ``before + i`` of its keys."""
    rows = torch.arange(before, before + queries, device=device)[:, None]
    columns = torch.arange(before + queries, device=device)[None, :]
    seen = columns <= rows
    return seen if window is None else seen & (columns > rows - window)


AttentionInterface.register(NAME, segment_attention)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


@contextmanager
def installed(model: PreTrainedModel) -> Iterator[None]:
    """Make a model attend within segments while the context lasts."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)

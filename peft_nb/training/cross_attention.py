"""Attention of few tokens to a long sequence, whose keys and values are never made.

With ``K = X Wk^T`` the scores ``q K^T`` are ``(q Wk) X^T``, and with ``V = X Wv^T`` the output ``P V`` is
``(P X) Wv^T``: the same numbers, for a few tokens in a fraction of the work, and nothing is kept for every place of the
sequence. DeepSeek-V2 attends so to what its cache holds ("absorbed" weights; arXiv:2405.04434, section 2.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from peft_nb.training import fused


@contextmanager
def installed(attentions: Sequence[Any]) -> Iterator[None]:
    """Let attentions of Whisper's kind compute so while the context lasts, where their keys and values are plain.

    Parameters
    ----------
    attentions : sequence of nn.Module
        Each attends to ``key_value_states``. With a cache, which keeps keys and values, or a mask it is left as it is.
    """
    with ExitStack() as stack:
        for one in attentions:
            if not one.dropout and all(map(_plain, (one.k_proj, one.v_proj))):
                one.forward = _absorbed(one)
                stack.callback(one.__dict__.pop, "forward")
        yield


def _plain(layer: nn.Module) -> bool:
    """Whether a layer is a product with one weight: a linear one, or one with plain LoRA."""
    return type(layer) is nn.Linear or fused.fits(layer)


def _absorbed(attention: Any) -> Callable[..., Any]:
    stock = attention.forward

    def forward(hidden_states: torch.Tensor, key_value_states: Any = None, **options: Any) -> Any:
        if key_value_states is None or any(
            options.get(one) is not None for one in ("past_key_values", "attention_mask")
        ):
            return stock(hidden_states, key_value_states=key_value_states, **options)
        rows, tokens, width = hidden_states.shape
        heads, size = attention.num_heads, attention.head_dim
        queries = (attention.q_proj(hidden_states) * attention.scaling).view(rows, tokens, heads, size).transpose(1, 2)
        # A bias of keys adds the same to all scores of a query, and changes no share.
        asked = (queries @ _weight(attention.k_proj).view(heads, size, -1)).view(rows, heads * tokens, -1)
        shares = (asked @ key_value_states.transpose(1, 2)).softmax(-1, dtype=torch.float32).to(asked.dtype)
        heard = (shares @ key_value_states).view(rows, heads, tokens, -1)
        found = heard @ _weight(attention.v_proj).view(heads, size, -1).transpose(1, 2)
        found = found.transpose(1, 2).reshape(rows, tokens, width)
        bias = getattr(attention.v_proj, "base_layer", attention.v_proj).bias  # shares sum up to 1
        return attention.out_proj(found if bias is None else found + bias), None

    return forward


def _weight(layer: Any) -> torch.Tensor:
    """The weight of a layer with its adapter, differentiable; of the base alone while the adapter is switched off."""
    if type(layer) is nn.Linear:
        return layer.weight
    base: torch.Tensor = layer.get_base_layer().weight
    if layer.disable_adapters:
        return base
    (name,) = layer.active_adapters
    return base + layer.scaling[name] * (layer.lora_B[name].weight @ layer.lora_A[name].weight).to(base.dtype)

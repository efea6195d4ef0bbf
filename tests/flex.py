"""Flex attention as its kernels read a block mask, written out: so it has gradients on a CPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask


def seen(mask: BlockMask) -> torch.Tensor:
    """What each query sees: nothing of a block that no list has, all of one that is full, else what the mask says."""
    queries, keys = mask.seq_lengths
    counts = [of[0, 0] for of in (mask.kv_num_blocks, mask.full_kv_num_blocks)]
    columns = [of[0, 0] for of in (mask.kv_indices, mask.full_kv_indices)]
    found = torch.zeros(queries, keys, dtype=torch.bool)
    (tall, wide) = mask.BLOCK_SIZE
    for full in (0, 1):
        for row, count in enumerate(counts[full].tolist()):
            for column in columns[full][row, :count].tolist():
                q = torch.arange(row * tall, min((row + 1) * tall, queries))[:, None]
                k = torch.arange(column * wide, min((column + 1) * wide, keys))[None]
                found[q, k] = True if full else mask.mask_mod(torch.tensor(0), torch.tensor(0), q, k)
    return found


def written_out(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    score_mod: Any,
    block_mask: BlockMask,
    scale: float,
    return_aux: Any,
    **ignored: Any,
) -> Any:
    """The whole matrix of scores."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.mT * scale
    if score_mod is not None:
        scores = score_mod(scores, None, None, None, None)
    scores = scores.masked_fill(~seen(block_mask), -torch.inf)
    out = scores.softmax(-1) @ value
    return out if return_aux is None else (out, SimpleNamespace(lse=scores.logsumexp(-1)))

"""Attention for examples that lie end to end in one row, with or without prefixes they share.

Two functions are registered with transformers' attention and mask interfaces under one name; models pass the
segments through to the attention as keywords.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from peft_nb.system import transformers_private
from peft_nb.training import gpu_attention
from peft_nb.training.gpu_attention import EACH, VARLEN

NAME = "peft_nb_segments"
MOST_WEIGHTS = 2**25  # of one segment, which the own backward pass holds at once; longer ones are left to PyTorch


class NotExact(Exception):
    """A model needs something the padding-free path does not compute; the padded path must be used."""


class Local(NamedTuple):
    """How far a layer sees; it reaches the layer in place of a mask, which nothing here ever builds whole.

    Attributes
    ----------
    size : int
        Tokens a query sees, itself included; in layers that look both ways, how far it sees to either side; with
        `chunked`, the tokens of a chunk.
    chunked : bool
        Whether a query sees the chunk of its segment that it lies in, instead of a window that moves with it.
    """

    size: int
    chunked: bool = False


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Local | torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    softcap: float | None = None,
    segments: Sequence[int] | None = None,
    parents: Sequence[int] | None = None,
    s_aux: torch.Tensor | None = None,
    kernel: str = "",
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each segment of a row: causally, unless the layer says that it looks both ways.

    Parameters
    ----------
    module : torch.nn.Module
        The attention layer that calls.
    query, key, value : torch.Tensor
        Shapes ``(1, heads, tokens, head_dim)``; key and value may have fewer heads (grouped-query attention).
    attention_mask : Local or None
        What the mask function registered beside this one says of the layer. A mask that the model builds on its own
        could hold anything.
    scaling : float, optional
        Factor on the dot products; default ``head_dim ** -0.5``.
    dropout : float
        Dropout on the attention weights.
    is_causal : bool, optional
        Whether a token sees only what comes before it; by default what the layer's own ``is_causal`` says.
    softcap : float, optional
        The bound that the scores are squeezed under by a hyperbolic tangent, as in Gemma 2.
    segments : sequence of int
        Lengths of the segments; they add up to ``tokens``.
    parents : sequence of int, optional
        The segment that each continues, which comes before it, or -1: it sees the keys and values of that one, too,
        and of all that one continues. By default none continues any.
    s_aux : torch.Tensor, optional
        Attention sinks, as in gpt-oss: a score of each head that takes its share of the weights and gives nothing.
    kernel : str
        One of :mod:`peft_nb.training.gpu_attention`, or ``EACH`` for each segment alone; by default what suits.

    Returns
    -------
    tuple of torch.Tensor and None
        The output, shape ``(1, tokens, heads, head_dim)``; the weights are not given away.

    Raises
    ------
    NotExact
        If the layer asks for a bias on the scores or a mask of its own, or for a shared prefix and looks both ways.
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if attention_mask is not None and not isinstance(attention_mask, Local):
        raise NotExact(f"{type(module).__name__} brings a mask of its own")
    tree = _Tree(list(segments or ()), list(parents or ()))
    if tree.shared and not causal:
        raise NotExact(f"{type(module).__name__} looks both ways: what follows a prefix changes it")
    if segments is None:
        raise NotExact(f"{type(module).__name__} is not told where a segment ends")
    if kwargs.get("position_bias") is not None:
        raise NotExact(f"{type(module).__name__} computes attention scores in its own way")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    local = attention_mask
    if local is not None and local.size >= tree.longest:
        local = None
    plain = softcap is None and s_aux is None
    asked = gpu_attention.Asked(
        *(query.dtype, query.shape[-1], value.shape[-1]),
        tree=bool(tree.shared),
        chunked=local is not None and local.chunked,
        written_out=not plain,
        dropout=bool(dropout),
    )
    kernel = kernel or gpu_attention.chosen(asked, query.device)[0]
    if kernel == VARLEN:
        return gpu_attention.varlen(query, key, value, tree.lengths, causal, local, scale), None
    if kernel != EACH:
        pattern = tuple(tree.lengths), tuple(tree.parents), causal, local
        return gpu_attention.flex(query, key, value, pattern, scale, softcap, s_aux), None
    few = query.shape[1] * max(tree.lengths) * tree.longest <= MOST_WEIGHTS
    alike = query.shape[-1] == value.shape[-1]  # DeepSeek's values have another width
    if plain and few and alike and query.device.type == "cpu" and not dropout and local is None and causal:
        return SegmentProduct.apply(query, key, value, tree, scale), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    outputs = []
    for q, k, v, before in tree.parts(query, key, value):
        mask = None
        if before or local or not plain:
            mask = _seen(q.shape[2], before, local, causal).to(q.device)
        if mask is None or plain:
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal and mask is None, scale=scale
            )
        else:
            weights = _weights(q @ k.mT * scale, mask, softcap, s_aux).to(q.dtype)
            out = F.dropout(weights, dropout) @ v
        outputs.append(out.transpose(1, 2))
    return torch.cat(outputs, dim=1), None


def _weights(
    scores: torch.Tensor, seen: torch.Tensor, softcap: float | None, sinks: torch.Tensor | None
) -> torch.Tensor:
    """Attention weights of a segment, written out, where PyTorch has no kernel for what is made of the scores."""
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.float().masked_fill(~seen, -torch.inf)
    norm = scores.logsumexp(-1, keepdim=True)
    if sinks is not None:
        norm = norm.logaddexp(sinks.float().view(1, -1, 1, 1))
    return (scores - norm).exp()


class _Tree:
    """Segments of a row and what they continue."""

    def __init__(self, lengths: list[int], parents: list[int]) -> None:
        self.lengths = lengths
        self.parents = parents or [-1] * len(lengths)
        self.shared = set(self.parents) - {-1}
        self.starts = [0, *accumulate(lengths)]

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        reach: list[int] = []
        for length, parent in zip(self.lengths, self.parents, strict=True):
            reach.append(length + (reach[parent] if parent >= 0 else 0))
        return max(reach)

    def parts(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]]:
        """The queries of each segment, the keys and values they see, and how many of those come before them."""
        kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        rows = zip(*(tensor.split(self.lengths, dim=2) for tensor in (query, key, value)), strict=True)
        for segment, (parent, (q, k, v)) in enumerate(zip(self.parents, rows, strict=True)):
            if parent >= 0:
                k, v = (torch.cat(pair, dim=2) for pair in zip(kept[parent], (k, v), strict=True))
            if segment in self.shared:
                kept[segment] = k, v
            yield q, k, v, k.shape[2] - q.shape[2]

    def path(self, segment: int) -> list[slice]:
        """Where in the row the keys of a segment lie that it sees, its own last."""
        found = []
        while segment >= 0:
            found.append(slice(self.starts[segment], self.starts[segment + 1]))
            segment = self.parents[segment]
        return found[::-1]


class SegmentProduct(torch.autograd.Function):
    """The same attention on a CPU: it keeps the keys and values of grouped queries once, and the outputs once.

    In bfloat16, PyTorch's backward pass takes twice as long as this one.

    Forward is PyTorch's own kernel; backward follows FlashAttention-2 (Dao, 2023, arXiv:2307.08691): the weights are
    recomputed from the saved log-sum-exp, and query heads that share a key head are multiplied together.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        tree: _Tree,
        scale: float,
    ) -> torch.Tensor:
        """Attend; parameters are those of :func:`segment_attention`."""
        groups = query.shape[1] // key.shape[1]
        outputs, norms = [], []
        for q, k, v, before in tree.parts(query, key, value):
            mask = torch.zeros(()).where(_seen(q.shape[2], before), -torch.inf).to(q.dtype) if before else None
            out, norm = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q,
                k.repeat_interleave(groups, dim=1),
                v.repeat_interleave(groups, dim=1),
                is_causal=mask is None,
                attn_mask=mask,
                scale=scale,
            )
            outputs.append(out.transpose(1, 2))
            norms.append(norm)
        output = torch.cat(outputs, dim=1)
        ctx.save_for_backward(query, key, value, output, *norms)
        ctx.tree, ctx.scale = tree, scale
        return output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients for query, key and value."""
        tree: _Tree = ctx.tree
        query, key, value, output, *norms = ctx.saved_tensors
        heads, kept, width = query.shape[1], key.shape[1], query.shape[3]
        groups = heads // kept
        grad = grad.transpose(1, 2)
        wide = torch.promote_types(grad.dtype, torch.float32)
        delta = (grad.to(wide) * output.transpose(1, 2).to(wide)).sum(-1, keepdim=True)
        grads = [torch.empty_like(tensor) for tensor in (query, key, value)]
        # What several segments add to is summed in float32 at least.
        sums = [torch.zeros(tensor.shape[1:], dtype=wide) for tensor in (key, value)] if tree.shared else []
        parts = tree.parts(query, key, value)
        for segment, ((q, k, v, before), norm) in enumerate(zip(parts, norms, strict=True)):
            *above, own = tree.path(segment)
            shape = (kept, groups * q.shape[2], -1)
            q, k, v = q.reshape(shape) * ctx.scale, k[0], v[0]
            g = grad[0, :, own].reshape(shape)
            weights = torch.bmm(q, k.mT).to(wide).sub_(norm[0].reshape(shape)).exp_()
            weights.view(kept, groups, -1, k.shape[1]).tril_(before)
            scores = torch.bmm(g, v.mT).to(wide).sub_(delta[0, :, own].reshape(shape)).mul_(weights)
            weights, scores = weights.to(q.dtype), scores.to(q.dtype)
            grads[0][0, :, own] = torch.bmm(scores, k).mul_(ctx.scale).view(heads, -1, width)
            for index, product in ((1, torch.bmm(scores.mT, q)), (2, torch.bmm(weights.mT, g))):
                grads[index][0, :, own] = product[:, before:]
                for place, part in zip(
                    above, product.split([a.stop - a.start for a in (*above, own)], 1), strict=False
                ):
                    sums[index - 1][:, place] += part
        for index, total in enumerate(sums, start=1):
            grads[index] += total
        return *grads, None, None


def _seen(queries: int, before: int, local: Local | None = None, causal: bool = True) -> torch.Tensor:
    """Which keys each query sees; query ``i`` sits at position ``before + i`` of its keys."""
    rows = torch.arange(before, before + queries)[:, None]
    columns = torch.arange(before + queries)[None, :]
    seen = columns <= rows if causal else torch.ones(queries, before + queries, dtype=torch.bool)
    if local is None:
        return seen
    size, chunked = local
    if chunked:
        return seen & (columns // size == rows // size)
    return seen & (columns > rows - size if causal else (columns - rows).abs() <= size)


def segment_mask(
    *args: Any, config: Any, local_size: int | None = None, use_vmap: bool = False, **kwargs: Any
) -> Local | None:
    """Tell the layers what their mask would hold beyond the segments and their causality: how far they see.

    Parameters
    ----------
    *args, **kwargs
        What else transformers' mask functions take.
    config : transformers.PreTrainedConfig
        The model's config.
    local_size : int, optional
        The window, or the chunk, of layers with local attention.
    use_vmap : bool
        Whether the model changes the mask by a function of its own.

    Returns
    -------
    Local or None
        ``None`` where a layer sees its whole segment, or all of it that came before.

    Raises
    ------
    NotExact
        If the model has a function of its own.
    """
    if use_vmap:
        raise NotExact("the model changes its mask by a function of its own")
    return (
        None if local_size is None else Local(local_size, local_size == getattr(config, "attention_chunk_size", None))
    )


def nothing_hidden(ids: torch.Tensor) -> torch.Tensor | None:
    """A mask of a row, for GPUs: without one transformers asks the device whether positions begin anew, and waits."""
    return None if ids.device.type == "cpu" else torch.ones_like(ids, dtype=torch.bool)


AttentionInterface.register(NAME, segment_attention)
AttentionMaskInterface.register(NAME, segment_mask)


@contextmanager
def installed(model: PreTrainedModel) -> Iterator[None]:
    """Make a model attend within segments while the context lasts."""
    before = transformers_private.attention(model)
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)

"""Attention over all segments of a row at once, for GPUs, where a loop over segments would leave the device idle.

PyTorch's `varlen_attn` (FlashAttention-2) takes plain segments in half precision; flex attention takes the rest, its
mask computed from three numbers a token. What neither takes is padded. The masks and formulas are proven on the CPU;
the kernels have not run yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from peft_nb.training.packing import sent

VARLEN, FLEX, EACH = "varlen", "flex", "each segment alone"
BLOCK = 128  # queries, and keys, that flex attention's kernels take or skip together
WIDE_HEADS = {(8, 0), (9, 0), (10, 0)}  # what FlashAttention-2 has the room on for a backward pass with heads over 192
DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
Pattern = tuple[tuple[int, ...], tuple[int, ...], bool, "tuple[int, bool] | None"]


class Asked(NamedTuple):
    """What a layer asks of attention, beside segments.

    Attributes
    ----------
    dtype : torch.dtype
        Of queries, keys and values.
    width, value_width : int
        Numbers of a head, of queries and keys and of values.
    tree : bool
        Whether segments continue others.
    chunked : bool
        Whether attention is local by the chunk.
    written_out : bool
        Whether scores are soft-capped, or some go to attention sinks.
    dropout : bool
        Whether weights are dropped at random.
    """

    dtype: torch.dtype
    width: int
    value_width: int
    tree: bool = False
    chunked: bool = False
    written_out: bool = False
    dropout: bool = False


def choose(asked: Asked, capability: tuple[int, int], triton: bool) -> tuple[str, str]:
    """Choose what computes attention on a GPU.

    Parameters
    ----------
    asked : Asked
        What for.
    capability : tuple of int
        The GPU's compute capability, such as ``(8, 0)``.
    triton : bool
        Whether Triton is installed, which flex attention is compiled with.

    Returns
    -------
    tuple of str
        ``VARLEN``, ``FLEX`` or ``EACH``, and why neither of the first two, or an empty string.
    """
    if asked.dropout:
        return EACH, "attention weights are dropped at random"
    half = asked.dtype in (torch.float16, torch.bfloat16) and capability >= (8, 0)
    fits = asked.width % 8 == 0 and asked.width <= (256 if capability in WIDE_HEADS else 192)
    plain = not (asked.tree or asked.chunked or asked.written_out) and asked.width == asked.value_width
    if half and fits and plain:
        return VARLEN, ""
    if not triton:
        return EACH, "Triton is not installed"
    if not half and (asked.dtype not in (torch.float32, torch.float16) or capability < (7, 0)):
        name = str(asked.dtype).removeprefix("torch.")
        return EACH, f"no kernel takes {name} on a GPU of compute capability {capability[0]}.{capability[1]}"
    if min(asked.width, asked.value_width) < 16:
        return EACH, "heads have fewer than 16 numbers"
    return FLEX, ""


def unserved(config: Any, dtype: torch.dtype, device: torch.device, tree: bool) -> str:
    """Why no kernel of a GPU takes a model's segments, in a tree or not, or an empty string."""
    if device.type != "cuda":
        return ""
    known = config.get_text_config().to_dict()  # where layers differ in a setting, its attribute cannot be asked for
    width = known.get("head_dim") or known["hidden_size"] // known["num_attention_heads"]
    dropout = any(known.get(name) for name in DROPOUTS)
    return chosen(Asked(dtype, width, width, tree=tree, dropout=dropout), device)[1]


def chosen(asked: Asked, device: torch.device) -> tuple[str, str]:
    """What :func:`choose` says for a device of this machine; only GPUs of CUDA have these kernels."""
    if device.type != "cuda":
        return EACH, ""
    return choose(asked, torch.cuda.get_device_capability(device), find_spec("triton") is not None)


class Row(NamedTuple):
    """What each token of a row is to attention, three numbers each: key ``k`` is seen by query ``q`` on its path.

    Attributes
    ----------
    since, until : torch.Tensor
        The queries that see a key lie from ``since`` to before ``until``.
    place : torch.Tensor
        Where on its path a token lies, which is how far apart it is from others.
    """

    since: torch.Tensor
    until: torch.Tensor
    place: torch.Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], parents: Sequence[int], causal: bool) -> Row:
        """Lay out segments; each comes before all that continue it, and these before whatever does not.

        Raises
        ------
        ValueError
            If they come in another order.
        """
        starts = [0, *accumulate(lengths)]
        before = [0] * len(lengths)  # tokens on the path
        path: list[int] = []
        ends = starts[1:]
        for segment, parent in enumerate(parents):
            while path and path[-1] != parent:
                path.pop()
            if parent >= 0 and not path:
                raise ValueError("what continues a segment does not follow it")
            for one in path:
                ends[one] = starts[segment + 1]
            before[segment] = before[parent] + lengths[parent] if parent >= 0 else 0
            path.append(segment)
        sizes = torch.tensor(lengths)
        index = torch.arange(starts[-1])
        first = torch.tensor(starts[:-1]).repeat_interleave(sizes)
        until = torch.tensor(ends).repeat_interleave(sizes)
        place = index - first + torch.tensor(before).repeat_interleave(sizes)
        return cls(*(one.to(torch.int32) for one in (index if causal else first, until, place)))


def sees(row: Row, causal: bool, local: tuple[int, bool] | None) -> Callable[..., torch.Tensor]:
    """Whether a query sees a key, as flex attention asks: of batch, head, query and key."""
    since, until, place = row

    def on_path(batch: Any, head: Any, query: Any, key: Any) -> torch.Tensor:
        return (since[key] <= query) & (query < until[key])

    if local is None:
        return on_path
    size, chunked = local  # the kernels are not told: a number that changes would compile them anew
    chunk, reach = place // size, place - size

    def in_chunk(batch: Any, head: Any, query: Any, key: Any) -> torch.Tensor:
        return on_path(batch, head, query, key) & (chunk[query] == chunk[key])

    def in_window(batch: Any, head: Any, query: Any, key: Any) -> torch.Tensor:
        return on_path(batch, head, query, key) & (reach[query] < place[key])

    def near(batch: Any, head: Any, query: Any, key: Any) -> torch.Tensor:
        return on_path(batch, head, query, key) & (reach[query] <= place[key]) & (reach[key] <= place[query])

    return in_chunk if chunked else in_window if causal else near


def blocks(row: Row, causal: bool, local: tuple[int, bool] | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Which blocks of queries (rows) see some key of which blocks of keys, and which see all of them.

    Found from the least and the most of each block, never from pairs of tokens. A block may be taken in which no query
    sees any key; none is left out in which one does.
    """
    tokens = len(row.place)
    first = torch.arange(0, tokens, BLOCK)
    last = (first + BLOCK).clamp(max=tokens) - 1

    def least(of: torch.Tensor) -> torch.Tensor:
        return torch.stack([part.min() for part in of.split(BLOCK)])

    def most(of: torch.Tensor) -> torch.Tensor:
        return torch.stack([part.max() for part in of.split(BLOCK)])

    some = (least(row.since)[None] <= last[:, None]) & (first[:, None] < most(row.until)[None])
    every = (most(row.since)[None] <= first[:, None]) & (last[:, None] < least(row.until)[None])
    if local is None:
        return some, every
    size, chunked = local
    if not chunked:
        nearest = least(row.place)[:, None] - most(row.place)[None]
        some &= nearest < size + (not causal)
    return some, torch.zeros_like(every)


@lru_cache(maxsize=16)  # the layers of a model, forward and backward, ask for the same ones
def block_mask(pattern: Pattern, device: torch.device) -> BlockMask:
    """Lay out what flex attention has to know of a row.

    Parameters
    ----------
    pattern : tuple
        Lengths of the segments, what each continues, whether attention is causal, and how far it reaches: a size and
        whether it is that of a chunk, or None.
    device : torch.device
        Where the mask goes.

    Returns
    -------
    BlockMask
        On the device, without waiting for it.
    """
    lengths, parents, causal, local = pattern
    with torch.inference_mode(False):
        row = Row.of(lengths, parents, causal)
        some, every = blocks(row, causal, local)
        counts, columns, full_counts, full_columns = (
            sent(one[None, None], device) for which in (some & ~every, every) for one in _ordered(which)
        )
        on_device = Row(*(sent(one, device) for one in row))
        return BlockMask.from_kv_blocks(
            counts,
            columns,
            full_counts,
            full_columns,
            BLOCK_SIZE=BLOCK,
            mask_mod=sees(on_device, causal, local),
            seq_lengths=(sum(lengths), sum(lengths)),
        )


def _ordered(which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row how many are true, and the columns, those first."""
    columns = which.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return which.sum(-1, dtype=torch.int32), columns.to(torch.int32)


@lru_cache(maxsize=4)
def _starts(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):
        return sent(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), device)


@cache
def compiled_flex() -> Callable[..., Any]:
    """Flex attention as kernels; without compiling it would build whole matrices of scores."""
    return torch.compile(flex_attention)


def varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: Sequence[int],
    causal: bool,
    local: tuple[int, bool] | None,
    scale: float,
) -> torch.Tensor:
    """Attend within plain segments; shapes as of :func:`peft_nb.training.attention.segment_attention`."""
    from torch.nn.attention.varlen import varlen_attn

    starts, longest = _starts(tuple(lengths), query.device), max(lengths)
    back = -1 if local is None else local[0] - causal  # the kernel does not count the query itself
    window = (back, 0 if causal else back)
    q, k, v = (one[0].transpose(0, 1) for one in (query, key, value))
    out = varlen_attn(q, k, v, starts, starts, longest, longest, scale=scale, window_size=window, enable_gqa=True)
    assert isinstance(out, torch.Tensor)  # it was not asked for more
    return out[None]


def flex(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pattern: Pattern,
    scale: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend within segments and what they continue.

    Parameters
    ----------
    query, key, value : torch.Tensor
        Shapes ``(1, heads, tokens, head_dim)``.
    pattern : tuple
        As of :func:`block_mask`.
    scale : float
        Factor on the dot products.
    softcap : float, optional
        The bound that the scores are squeezed under.
    sinks : torch.Tensor, optional
        A score of each head that takes its share of the weights and gives nothing.

    Returns
    -------
    torch.Tensor
        Shape ``(1, tokens, heads, head_dim)``.
    """
    found = compiled_flex()(
        query,
        key,
        value,
        score_mod=None if softcap is None else _capped(softcap),
        block_mask=block_mask(pattern, query.device),
        scale=scale,
        enable_gqa=True,
        kernel_options={"BACKEND": "TRITON"},  # has all of this, gradients through the norm too
        return_aux=None if sinks is None else AuxRequest(lse=True),
    )
    if sinks is None:
        return found.transpose(1, 2)
    out, norms = found[0], found[1].lse
    share = torch.sigmoid(norms - sinks.to(norms.dtype).view(1, -1, 1))  # of the weights, without the sinks'
    return (out * share[..., None].to(out.dtype)).transpose(1, 2)


def _capped(most: float) -> Callable[..., torch.Tensor]:
    def capped(score: torch.Tensor, batch: Any, head: Any, query: Any, key: Any) -> torch.Tensor:
        return most * torch.tanh(score / most)

    return capped

"""Attention within the segments of a row gives what softmax written out gives, and so do its gradients."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch

from peft_nb.training import attention
from peft_nb.training.attention import Local, NotExact, segment_attention
from tests import tiny

LENGTHS = [4, 2, 6, 1]
PARENTS = [-1, 0, 1, 0]
HEADS, GROUPS, WIDTH = 2, 3, 8


def row(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Queries, keys and values of a row; three query heads share a key head."""
    torch.manual_seed(0)
    return [
        torch.randn(1, heads, sum(LENGTHS), WIDTH, dtype=dtype, requires_grad=True)
        for heads in (HEADS * GROUPS, HEADS, HEADS)
    ]


def plain(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prefix: bool,
    causal: bool,
    local: Local | None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
) -> torch.Tensor:
    """One softmax for every token, over what it may see of the whole row."""
    segment = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    paths = [[0], [0, 1], [0, 1, 2], [0, 3]] if prefix else [[0], [1], [2], [3]]
    before = [sum(LENGTHS[one] for one in path[:-1]) for path in paths]
    place = torch.cat([torch.arange(length) + before[at] for at, length in enumerate(LENGTHS)])
    seen = torch.tensor([[other in path for other in range(len(LENGTHS))] for path in paths])[segment][:, segment]
    if causal:
        seen = seen & (place[None, :] <= place[:, None])
    if local is not None:
        gap = place[:, None] - place[None, :]
        chunks = place // local.size
        seen = seen & (
            chunks[:, None] == chunks if local.chunked else gap < local.size if causal else gap.abs() <= local.size
        )
    key, value = (tensor.repeat_interleave(GROUPS, dim=1) for tensor in (key, value))
    scores = query @ key.mT * WIDTH**-0.5
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    scores = scores.masked_fill(~seen, -torch.inf)
    if s_aux is None:
        return (scores.softmax(-1) @ value).transpose(1, 2)
    sinks = s_aux.to(scores).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
    return (torch.cat((scores, sinks), -1).softmax(-1)[..., :-1] @ value).transpose(1, 2)


@pytest.mark.parametrize(
    ("prefix", "causal", "local"),
    [
        (False, True, None),
        (True, True, None),
        (False, False, None),
        (False, True, Local(3)),
        (True, True, Local(3)),
        (False, True, Local(99)),
        (True, True, Local(99)),
        (False, False, Local(2)),
        (False, True, Local(3, chunked=True)),
        (True, True, Local(3, chunked=True)),
    ],
)
def test_it_equals_softmax_over_what_a_token_may_see(prefix: bool, causal: bool, local: Local | None) -> None:
    mine, wanted = row(), row()
    found, weights = segment_attention(
        torch.nn.Module(),
        *mine,
        local,
        is_causal=causal,
        segments=LENGTHS,
        parents=PARENTS if prefix else None,
    )
    assert weights is None
    expected = plain(*wanted, prefix, causal, local)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    found.backward(upstream)
    expected.backward(upstream)
    for one, other in zip(mine, wanted, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)], ids=str)
def test_the_own_backward_pass_is_as_exact_as_the_format(prefix: bool, dtype: torch.dtype, least: float) -> None:
    mine = row(dtype)
    wanted = [one.detach().double().requires_grad_() for one in mine]
    found, _ = segment_attention(torch.nn.Module(), *mine, None, segments=LENGTHS, parents=PARENTS if prefix else None)
    assert type(found.grad_fn).__name__ == "SegmentProductBackward"
    expected = plain(*wanted, prefix, True, None)
    upstream = torch.randn_like(found)
    found.backward(upstream)
    expected.backward(upstream.double())
    torch.testing.assert_close(found.double(), expected, atol=least, rtol=least)
    for one, other in zip(mine, wanted, strict=True):
        assert (one.grad.double() - other.grad).norm() < least / 2 * other.grad.norm()


def test_segments_whose_weights_would_take_much_memory_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def names() -> str:
        found, _ = segment_attention(torch.nn.Module(), *row(torch.float32), None, segments=LENGTHS)
        return type(found.grad_fn).__name__

    assert names() == "SegmentProductBackward"
    monkeypatch.setattr(attention, "MOST_WEIGHTS", 10)
    assert names() != "SegmentProductBackward"


def test_what_it_does_not_compute_is_refused() -> None:
    with pytest.raises(NotExact, match="Module computes attention scores in its own way"):
        segment_attention(torch.nn.Module(), *row(), None, segments=LENGTHS, position_bias=torch.zeros(1))
    with pytest.raises(NotExact, match="Module is not told where a segment ends"):
        segment_attention(torch.nn.Module(), *row(), None)


@pytest.mark.parametrize("asked", [{"softcap": 0.5}, {"s_aux": torch.linspace(-1, 1, HEADS * GROUPS)}], ids=list)
@pytest.mark.parametrize("prefix", [False, True])
def test_soft_capped_scores_and_sinks_are_those_written_out(asked: dict[str, Any], prefix: bool) -> None:
    mine, wanted = row(), row()
    parents = PARENTS if prefix else None
    found, _ = segment_attention(torch.nn.Module(), *mine, None, segments=LENGTHS, parents=parents, **asked)
    expected = plain(*wanted, prefix, True, None, **asked)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    found.sum().backward()
    expected.sum().backward()
    for one, other in zip(mine, wanted, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6)


def test_a_mask_that_the_model_builds_is_refused() -> None:
    mask = torch.zeros(1, 1, sum(LENGTHS), sum(LENGTHS))
    with pytest.raises(NotExact, match="Module brings a mask of its own"):
        segment_attention(torch.nn.Module(), *row(), mask, segments=LENGTHS)
    with pytest.raises(NotExact, match="changes its mask by a function of its own"):
        attention.segment_mask(config=None, use_vmap=True)


def test_a_prefix_before_layers_that_look_both_ways_is_refused() -> None:
    with pytest.raises(NotExact, match="what follows a prefix changes it"):
        segment_attention(torch.nn.Module(), *row(), None, is_causal=False, segments=LENGTHS, parents=PARENTS)


def test_a_model_has_its_own_attention_back_afterwards() -> None:
    model = tiny.base("llama")
    with suppress(KeyError), attention.installed(model):
        assert model.config._attn_implementation == attention.NAME
        raise KeyError
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("prefix", [False, True])
def test_values_may_have_another_width(prefix: bool) -> None:
    query, key, _ = row()
    value = torch.randn(1, HEADS, sum(LENGTHS), WIDTH - 2, dtype=torch.float64, requires_grad=True)
    parents = PARENTS if prefix else None
    found, _ = segment_attention(torch.nn.Module(), query, key, value, None, segments=LENGTHS, parents=parents)
    expected = plain(query, key, value, prefix, True, None)
    torch.testing.assert_close(found, expected)
    slope = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(found, (query, key, value), slope),
        torch.autograd.grad(expected, (query, key, value), slope),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)

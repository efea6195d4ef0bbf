"""Attention within the segments of a row gives what softmax written out gives, and so do its gradients."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch

from peft_nb.training import attention
from peft_nb.training.attention import NotExact, segment_attention
from tests import tiny

LENGTHS = [4, 2, 6, 1]
HEADS, GROUPS, WIDTH = 2, 3, 8


def row(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Queries, keys and values of a row; three query heads share a key head."""
    torch.manual_seed(0)
    return [
        torch.randn(1, heads, sum(LENGTHS), WIDTH, dtype=dtype, requires_grad=True)
        for heads in (HEADS * GROUPS, HEADS, HEADS)
    ]


def plain(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, prefix: bool, causal: bool, window: int | None
) -> torch.Tensor:
    """One softmax for every token, over what it may see of the whole row."""
    segment = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    place = torch.cat([torch.arange(length) + LENGTHS[0] * (prefix and at > 0) for at, length in enumerate(LENGTHS)])
    seen = segment[:, None] == segment[None, :]
    if prefix:
        seen = seen | (segment == 0)[None, :]
    if causal:
        seen = seen & (place[None, :] <= place[:, None])
    if window is not None:
        seen = seen & (place[None, :] > place[:, None] - window)
    key, value = (tensor.repeat_interleave(GROUPS, dim=1) for tensor in (key, value))
    scores = (query @ key.mT * WIDTH**-0.5).masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize(
    ("prefix", "causal", "window"),
    [
        (False, True, None),
        (True, True, None),
        (False, False, None),
        (False, True, 3),
        (True, True, 3),
        (False, True, 99),
        (True, True, 99),
    ],
)
def test_it_equals_softmax_over_what_a_token_may_see(prefix: bool, causal: bool, window: int | None) -> None:
    mine, wanted = row(), row()
    found, weights = segment_attention(
        torch.nn.Module(),
        *mine,
        None,
        is_causal=causal,
        sliding_window=window,
        segments=LENGTHS,
        shared_prefix=prefix,
    )
    assert weights is None
    expected = plain(*wanted, prefix, causal, window)
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
    found, _ = segment_attention(torch.nn.Module(), *mine, None, segments=LENGTHS, shared_prefix=prefix)
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


@pytest.mark.parametrize(
    "asked",
    [
        {"segments": None},
        {"softcap": 30.0},
        {"s_aux": torch.zeros(1)},
        {"position_bias": torch.zeros(1)},
        {"sliding_window": 3, "is_causal": False},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_what_it_does_not_compute_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(NotExact, match="Module computes attention scores in its own way"):
        segment_attention(torch.nn.Module(), *row(), None, **{"segments": LENGTHS, **asked})


def test_a_model_has_its_own_attention_back_afterwards() -> None:
    model = tiny.base("llama")
    with suppress(KeyError), attention.installed(model):
        assert model.config._attn_implementation == attention.NAME
        raise KeyError
    assert model.config._attn_implementation == "sdpa"

"""Log-probabilities without the logits of a whole row are those of a softmax, in value and every gradient."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from peft_nb.training import loss
from peft_nb.training.loss import log_probs, token_scores

ROWS, HIDDEN, RANK, VOCABULARY = 37, 8, 3, 11
Tensors = list[torch.Tensor]


def given(dtype: torch.dtype = torch.float32) -> Tensors:
    """Hidden states and weight of a head, those of a LoRA on it, and a bias."""
    torch.manual_seed(0)
    shapes = [(ROWS, HIDDEN), (VOCABULARY, HIDDEN), (ROWS, RANK), (VOCABULARY, RANK), (VOCABULARY,)]
    return [torch.randn(shape).to(dtype) for shape in shapes]


TARGETS = torch.randint(VOCABULARY, (ROWS,), generator=torch.Generator().manual_seed(1))
WEIGHTS = torch.randn(ROWS, generator=torch.Generator().manual_seed(2))  # of an objective, one a target, of both signs


def own(tensors: Tensors, softcap: float | None) -> torch.Tensor:
    hidden, weight, low, up, bias = tensors
    return log_probs([(hidden, weight), (low, up)], TARGETS, bias, softcap)


def plain(tensors: Tensors, softcap: float | None) -> torch.Tensor:
    """All logits, their log-softmax, and of that the targets."""
    hidden, weight, low, up, bias = tensors
    logits = hidden @ weight.t() + low @ up.t() + bias
    if softcap is not None:
        logits = softcap * (logits / softcap).tanh()
    return logits.float().log_softmax(-1).gather(1, TARGETS[:, None])[:, 0]


def weighed(
    compute: Callable[[Tensors, float | None], torch.Tensor], tensors: Tensors, trained: set[int], softcap: float | None
) -> tuple[torch.Tensor, Tensors]:
    """Log-probabilities, and the gradients of an objective that weighs each of them by a number of its own."""
    leaves = [one.detach().clone().requires_grad_(place in trained) for place, one in enumerate(tensors)]
    found = compute(leaves, softcap)
    (found * WEIGHTS).sum().backward()
    return found.detach(), [leaves[place].grad for place in sorted(trained)]


@pytest.mark.parametrize("chunk_bytes", [1, loss.CHUNK_BYTES], ids=["many chunks", "one chunk"])
@pytest.mark.parametrize("trained", [{0}, {0, 2}, {0, 2, 3}, {0, 1, 4}, {1}, {4}], ids=str)
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_values_and_weighed_gradients_are_those_of_the_whole_softmax(
    monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, trained: set[int], softcap: float | None
) -> None:
    monkeypatch.setattr(loss, "CHUNK_BYTES", chunk_bytes)
    (found, gradients), (wanted, expected) = (weighed(one, given(), trained, softcap) for one in (own, plain))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trained", [{0, 2}, {0, 1, 2, 3, 4}], ids=["frozen head", "trained head"])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_in_bfloat16_it_is_as_near_to_float32_as_the_plain_computation(
    monkeypatch: pytest.MonkeyPatch, trained: set[int], softcap: float | None
) -> None:
    monkeypatch.setattr(loss, "CHUNK_BYTES", 1)
    rounded = given(torch.bfloat16)
    exact = weighed(plain, [one.float() for one in rounded], trained, softcap)
    mine, stock = (weighed(one, rounded, trained, softcap) for one in (own, plain))
    assert mine[0].dtype == torch.float32
    assert {one.dtype for one in mine[1]} == {torch.bfloat16}
    for found, other, wanted in zip(*([one[0], *one[1]] for one in (mine, stock, exact)), strict=True):
        off, stock_off = ((one.float() - wanted).norm() / wanted.norm() for one in (found, other))
        assert off < max(1.5 * stock_off, 2e-3) < 0.05


def test_without_gradients_none_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = own(given(), None)
    monkeypatch.setattr(torch, "mm", None)  # the product that makes the gradient
    torch.testing.assert_close(own(given(), None), expected)


def test_no_targets_are_no_loss() -> None:
    hidden, weight, *_ = given()
    hidden.requires_grad_()
    log_probs([(hidden[:0], weight)], TARGETS[:0]).sum().backward()
    assert not hidden.grad.any()
    assert token_scores([(hidden[:0], weight)], TARGETS[:0]).shape == (2, 0)


def test_a_gpu_holds_the_logits_of_more_rows_at_once() -> None:
    host, gpu = (SimpleNamespace(shape=(2**20, 8), is_cuda=cuda) for cuda in (False, True))
    assert (loss.chunk_rows(host), loss.chunk_rows(gpu)) == (16, 128)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_scores_are_losses_and_what_is_most_likely(monkeypatch: pytest.MonkeyPatch, softcap: float | None) -> None:
    monkeypatch.setattr(loss, "CHUNK_BYTES", 1)  # 16 rows at once
    hidden, weight, low, up, bias = given()
    losses, right = token_scores([(hidden, weight), (low, up)], TARGETS, bias, softcap)
    torch.testing.assert_close(losses, -plain(given(), softcap).double(), rtol=1e-5, atol=1e-5)
    assert right.tolist() == ((F.linear(hidden, weight, bias) + low @ up.t()).argmax(-1) == TARGETS).double().tolist()


def test_the_logits_of_few_rows_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK_BYTES", 1)
    largest, inner = list[int](), loss._logits
    monkeypatch.setattr(loss, "_logits", lambda *given: largest.append(len(found := inner(*given))) or found)
    weighed(own, given(), {0, 1, 2, 3, 4}, None)
    assert largest == [16, 16, 5] * 2  # of a trained head, in both passes
    largest.clear()
    weighed(own, given(), {0, 2}, None)
    assert largest == [16, 16, 5]

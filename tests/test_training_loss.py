"""The loss that keeps no logits is cross-entropy, in value and gradient, however many chunks it takes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from peft_nb.training import loss
from peft_nb.training.loss import FrozenHeadLoss

ROWS, HIDDEN, VOCABULARY = 37, 8, 11


def head(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, output embeddings, their bias and targets."""
    torch.manual_seed(0)
    hidden = torch.randn(ROWS, HIDDEN, dtype=dtype, requires_grad=True)
    weight, bias = torch.randn(VOCABULARY, HIDDEN, dtype=dtype), torch.randn(VOCABULARY, dtype=dtype)
    return hidden, weight, bias, torch.randint(VOCABULARY, (ROWS,))


@pytest.mark.parametrize("chunk_bytes", [1, loss.CHUNK_BYTES], ids=["many chunks", "one chunk"])
@pytest.mark.parametrize("biased", [False, True])
def test_it_is_summed_cross_entropy(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, biased: bool) -> None:
    monkeypatch.setattr(loss, "CHUNK_BYTES", chunk_bytes)
    hidden, weight, bias, targets = head()
    twin = hidden.detach().clone().requires_grad_()
    found = FrozenHeadLoss.apply(hidden, weight, bias if biased else None, targets)
    expected = F.cross_entropy(F.linear(twin, weight, bias if biased else None), targets, reduction="sum")
    torch.testing.assert_close(found, expected)
    (0.25 * found).backward()
    (0.25 * expected).backward()
    torch.testing.assert_close(hidden.grad, twin.grad)


def test_in_bfloat16_the_sum_is_float32_and_the_gradient_bfloat16() -> None:
    hidden, weight, bias, targets = head(torch.bfloat16)
    twin = hidden.detach().float().requires_grad_()
    found = FrozenHeadLoss.apply(hidden, weight, bias, targets)
    expected = F.cross_entropy(F.linear(twin, weight.float(), bias.float()), targets, reduction="sum")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0)
    found.backward()
    expected.backward()
    assert hidden.grad.dtype == torch.bfloat16
    assert (hidden.grad.float() - twin.grad).norm() < 0.02 * twin.grad.norm()


def test_without_gradients_none_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, bias, targets = head()
    expected = FrozenHeadLoss.apply(hidden, weight, bias, targets)
    monkeypatch.setattr(torch, "mm", None)  # the product that makes the gradient
    torch.testing.assert_close(FrozenHeadLoss.apply(hidden.detach(), weight, bias, targets), expected.detach())


def test_no_targets_are_no_loss() -> None:
    hidden, weight, bias, targets = head()
    assert FrozenHeadLoss.apply(hidden[:0], weight, bias, targets[:0]).item() == 0


def test_a_gpu_holds_the_logits_of_more_rows_at_once() -> None:
    host, gpu = (SimpleNamespace(shape=(2**20, 8), is_cuda=cuda) for cuda in (False, True))
    assert (loss.chunk_rows(host), loss.chunk_rows(gpu)) == (16, 128)


def test_scores_are_the_parts_of_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK_BYTES", 1)  # 16 rows at once
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(40, 8), torch.randn(50, 8), torch.randint(50, (40,))
    losses, right = loss.token_scores(hidden, weight, None, targets)
    torch.testing.assert_close(
        losses, F.cross_entropy(hidden @ weight.t(), targets, reduction="none").double(), rtol=1e-5, atol=1e-5
    )
    assert right.tolist() == ((hidden @ weight.t()).argmax(-1) == targets).double().tolist()
    assert loss.token_scores(hidden[:0], weight, None, targets[:0]).shape == (2, 0)


def test_soft_capped_logits_are_those_written_out() -> None:
    hidden, weight, bias, targets = head()
    twin = hidden.detach().clone().requires_grad_()
    capped = 2 * (F.linear(twin, weight, bias) / 2).tanh()
    expected = F.cross_entropy(capped, targets, reduction="sum")
    found = FrozenHeadLoss.apply(hidden, weight, bias, targets, 2.0)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(hidden.grad, twin.grad)
    losses, _ = loss.token_scores(hidden, weight, bias, targets, 2.0)
    torch.testing.assert_close(losses.sum().float(), expected.detach(), rtol=1e-5, atol=1e-5)

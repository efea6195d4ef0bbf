"""Log-probabilities of tokens under an output head, without ever holding the logits of a whole row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch

CHUNK_BYTES = 32 * 2**20  # of float32 logits: larger blocks an allocator maps anew each time
GPU_CHUNK_BYTES = 512 * 2**20  # a GPU idles while chunks are small

Products = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Pairs of hidden states and weights, shapes ``(n, width)`` and ``(vocabulary, width)``, whose products add up to the
logits of ``n`` places: one pair of a plain head, and a thin one beside it where the head has LoRA."""


class LogProbs(torch.autograd.Function):
    """The log-probability of each target; its gradient is taken while the logits are at hand, if the head is frozen.

    The logits of a chunk of rows are computed, turned into ``softmax - one_hot`` in place, multiplied by the frozen
    weights, and dropped. Only the gradient with respect to the hidden states is kept, a row a target, and multiplied in
    the backward pass by whatever an objective makes of that target. The idea is that of Liger Kernel's fused linear
    cross-entropy (Hsu et al., 2024, arXiv:2410.10989). The gradient of a head that is trained adds up over the targets,
    so that it has to wait for the backward pass, where the logits are computed anew.
    """

    @staticmethod
    def forward(
        ctx: Any, targets: torch.Tensor, bias: torch.Tensor | None, softcap: float | None, *flat: torch.Tensor
    ) -> torch.Tensor:
        """Compute them; parameters are those of :func:`log_probs`, the pairs one after the other."""
        hidden, weights = flat[::2], flat[1::2]
        trained = any(ctx.needs_input_grad[4::2]) or ctx.needs_input_grad[1]
        wanted = any(ctx.needs_input_grad[3::2]) and not trained
        found = torch.empty(len(targets), dtype=torch.float32, device=targets.device)
        gradients = [torch.empty_like(one) for one in hidden] if wanted else []
        for rows in _chunks(targets, weights[0]):
            target, logits = targets[rows, None], _logits(rows, hidden, weights, bias, softcap)
            norm = logits.logsumexp(-1, keepdim=True)
            found[rows] = (logits.gather(1, target) - norm)[:, 0]
            if wanted:
                slopes = _slopes(logits, norm, target, softcap)
                for gradient, weight in zip(gradients, weights, strict=True):
                    torch.mm(slopes.to(weight.dtype), weight, out=gradient[rows])
                del slopes
            del logits  # before the next ones are there
        ctx.softcap, ctx.trained = softcap, trained
        ctx.save_for_backward(*((targets, bias, *flat) if trained else gradients))
        return found

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Weigh the gradients by target, or compute them now."""
        if not ctx.trained:
            gradients = [gradient * -grad[:, None].to(gradient.dtype) for gradient in ctx.saved_tensors]
            return None, None, None, *chain.from_iterable((one, None) for one in gradients)
        targets, bias, *flat = ctx.saved_tensors
        hidden, weights = flat[::2], flat[1::2]
        grads = [
            torch.zeros_like(one, dtype=torch.float32) if one is not None and wanted else None
            for one, wanted in zip((bias, *flat), (ctx.needs_input_grad[1], *ctx.needs_input_grad[3:]), strict=True)
        ]
        for rows in _chunks(targets, weights[0]):
            target, logits = targets[rows, None], _logits(rows, hidden, weights, bias, ctx.softcap)
            slopes = _slopes(logits, logits.logsumexp(-1, keepdim=True), target, ctx.softcap).mul_(-grad[rows, None])
            if grads[0] is not None:
                grads[0] += slopes.sum(0)
            slopes = slopes.to(weights[0].dtype)
            pairs = zip(hidden, weights, grads[1::2], grads[2::2], strict=True)
            for states, weight, states_grad, weight_grad in pairs:
                if states_grad is not None:
                    states_grad[rows] = slopes @ weight
                if weight_grad is not None:
                    weight_grad += slopes.t() @ states[rows]
            del logits, slopes
        bias_grad, *others = (
            None if one is None else one.to(of.dtype) for one, of in zip(grads, (bias, *flat), strict=True)
        )
        return None, bias_grad, None, *others


def log_probs(
    products: Products, targets: torch.Tensor, bias: torch.Tensor | None = None, softcap: float | None = None
) -> torch.Tensor:
    """Compute the log-probability of each target, differentiable by hidden states, weights and bias.

    Parameters
    ----------
    products : sequence of tuple of torch.Tensor
        What the logits are made of; see :data:`Products`.
    targets : torch.Tensor
        Token ids, shape ``(n,)``.
    bias : torch.Tensor, optional
        Output bias, shape ``(vocabulary,)``.
    softcap : float, optional
        The bound that the logits are squeezed under by a hyperbolic tangent.

    Returns
    -------
    torch.Tensor
        In nats, shape ``(n,)``, float32.
    """
    found: torch.Tensor = LogProbs.apply(targets, bias, softcap, *chain.from_iterable(products))
    return found


@torch.no_grad()
def token_scores(
    products: Products, targets: torch.Tensor, bias: torch.Tensor | None = None, softcap: float | None = None
) -> torch.Tensor:
    """Loss of each target and whether it is what greedy decoding would choose.

    Parameters
    ----------
    products, targets, bias, softcap
        As of :func:`log_probs`.

    Returns
    -------
    torch.Tensor
        Shape ``(2, n)``, float64: negative log-likelihoods in nats, and 1 where the target is the most likely token.
    """
    hidden, weights = zip(*products, strict=True)
    found = torch.empty(2, len(targets), dtype=torch.float64, device=targets.device)
    for rows in _chunks(targets, weights[0]):
        target, logits = targets[rows, None], _logits(rows, hidden, weights, bias, softcap)
        found[0, rows] = (logits.logsumexp(-1, keepdim=True) - logits.gather(1, target))[:, 0].double()
        found[1, rows] = (logits.argmax(-1, keepdim=True) == target)[:, 0].double()
        del logits
    return found


def _chunks(targets: torch.Tensor, weight: torch.Tensor) -> Iterator[slice]:
    """Rows whose logits are held at once."""
    rows = chunk_rows(weight)
    return (slice(start, start + rows) for start in range(0, len(targets), rows))


def chunk_rows(weight: torch.Tensor) -> int:
    """Of how many rows the logits are held at once, given the output embeddings."""
    return max(16, (GPU_CHUNK_BYTES if weight.is_cuda else CHUNK_BYTES) // (weight.shape[0] * 4))


def _logits(
    rows: slice,
    hidden: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    bias: torch.Tensor | None,
    softcap: float | None,
) -> torch.Tensor:
    """Logits of a few rows, float32."""
    logits = hidden[0][rows] @ weights[0].t()
    for states, weight in zip(hidden[1:], weights[1:], strict=True):
        logits.addmm_(states[rows], weight.t())
    if bias is not None:
        logits += bias
    if softcap is not None:
        logits = logits.div_(softcap).tanh_().mul_(softcap)
    return logits.float()


def _slopes(logits: torch.Tensor, norm: torch.Tensor, target: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """Gradient of each loss, the negative log-probability, by the products; it takes the place of the logits."""
    bent = None if softcap is None else 1 - (logits / softcap).square_()
    slopes = logits.sub_(norm).exp_().scatter_add_(1, target, torch.full_like(norm, -1.0))
    return slopes if bent is None else slopes.mul_(bent)

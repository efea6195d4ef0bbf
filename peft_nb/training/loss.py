"""The language-modelling loss of a frozen output head, without ever holding the logits of a whole row."""

from __future__ import annotations

from typing import Any

import torch

CHUNK_BYTES = 32 * 2**20  # of float32 logits: larger blocks an allocator maps anew each time


class FrozenHeadLoss(torch.autograd.Function):
    """Summed cross-entropy of ``hidden @ weight.T + bias``, its gradient taken while the logits are at hand.

    The logits of a chunk of rows are computed, turned into ``softmax - one_hot`` in place, multiplied by the
    frozen weights, and dropped. Only the gradient with respect to ``hidden`` is kept. The idea is that of
    Liger Kernel's fused linear cross-entropy (Hsu et al., 2024, arXiv:2410.10989), without a gradient for the head.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        softcap: float | None = None,
    ) -> torch.Tensor:
        """Sum the negative log-likelihoods of ``targets``.

        Parameters
        ----------
        ctx
            Autograd's context.
        hidden : torch.Tensor
            Hidden states that predict a supervised token, shape ``(n, hidden_size)``.
        weight : torch.Tensor
            Output embeddings, shape ``(vocabulary, hidden_size)``, frozen.
        bias : torch.Tensor or None
            Output bias, shape ``(vocabulary,)``, frozen.
        targets : torch.Tensor
            Token ids, shape ``(n,)``.
        softcap : float, optional
            The bound that the logits are squeezed under by a hyperbolic tangent.

        Returns
        -------
        torch.Tensor
            The sum in nats, float32, no dimensions.
        """
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        rows = max(16, CHUNK_BYTES // (weight.shape[0] * 4))
        for start in range(0, hidden.shape[0], rows):
            chunk, target = hidden[start : start + rows], targets[start : start + rows, None]
            logits = _logits(chunk, weight, bias, softcap)
            norm = logits.logsumexp(dim=-1, keepdim=True)
            total += (norm - logits.gather(1, target)).sum()
            if gradient is not None:
                slope = None if softcap is None else 1 - (logits / softcap).square_()
                probabilities = logits.sub_(norm).exp_()
                probabilities.scatter_add_(1, target, torch.full_like(norm, -1.0))
                if slope is not None:
                    probabilities *= slope
                torch.mm(probabilities.to(weight.dtype), weight, out=gradient[start : start + rows])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale the gradient computed in the forward pass."""
        (gradient,) = ctx.saved_tensors
        return gradient * grad.to(gradient.dtype), None, None, None, None


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, softcap: float | None
) -> torch.Tensor:
    """Logits of a few rows, float32."""
    logits = hidden @ weight.t()
    if bias is not None:
        logits += bias
    if softcap is not None:
        logits = logits.div_(softcap).tanh_().mul_(softcap)
    return logits.float()


@torch.no_grad()
def token_scores(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    softcap: float | None = None,
) -> torch.Tensor:
    """Loss of each target and whether it is what greedy decoding would choose, without the logits of a whole row.

    Parameters
    ----------
    hidden, weight, bias, targets, softcap
        As of :class:`FrozenHeadLoss`.

    Returns
    -------
    torch.Tensor
        Shape ``(2, n)``, float64: negative log-likelihoods in nats, and 1 where the target is the most likely token.
    """
    found = torch.empty(2, len(targets), dtype=torch.float64, device=hidden.device)
    rows = max(16, CHUNK_BYTES // (weight.shape[0] * 4))
    for start in range(0, len(targets), rows):
        chunk, target = slice(start, start + rows), targets[start : start + rows, None]
        logits = _logits(hidden[chunk], weight, bias, softcap)
        found[0, chunk] = (logits.logsumexp(-1, keepdim=True) - logits.gather(1, target))[:, 0]
        found[1, chunk] = (logits.argmax(-1, keepdim=True) == target)[:, 0]
    return found

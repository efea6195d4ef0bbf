"""What GRPO and its relatives make of the rewards of several samples of one prompt.

Names and defaults are TRL's. Importing this needs no torch: tensors are asked for all that is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

TINY = 1e-4  # what TRL adds to a deviation before it divides by it


@dataclass(frozen=True)
class Samples:
    """What a model makes of ``n`` samples, whose tokens lie end to end.

    Attributes
    ----------
    policy : torch.Tensor
        Log-probability of each token, in nats, shape ``(tokens,)``, float32.
    tokens : torch.Tensor
        How many of them each sample has, integer, shape ``(n,)``.
    advantages : torch.Tensor
        Of each sample, as :func:`advantages` finds, shape ``(n,)``.
    sampled : torch.Tensor, optional
        As ``policy``, of the model that wrote the samples, without gradient; None where it is the model itself.
    reference : torch.Tensor, optional
        As ``policy``, of the model that the run started from, without gradient; needed where ``beta`` is not 0.
    """

    policy: Tensor
    tokens: Tensor
    advantages: Tensor
    sampled: Tensor | None = None
    reference: Tensor | None = None


def advantages(rewards: Tensor, *, scale_rewards: Literal["group", "batch", "none"] = "group") -> Tensor:
    """Say how much better each sample is than the other samples of its prompt.

    Parameters
    ----------
    rewards : torch.Tensor
        Of each sample, shape ``(prompts, samples)``, NaN where there is none.
    scale_rewards : {"group", "batch", "none"}, default "group"
        What differences are divided by: the standard deviation of the samples of a prompt, as in GRPO (Shao et al.,
        2024, arXiv:2402.03300), or of all (Liu et al., 2025, arXiv:2508.08221); or nothing, as in Dr. GRPO (Liu et
        al., 2025, arXiv:2503.20783), since hard and easy prompts would else count more.

    Returns
    -------
    torch.Tensor
        Shape ``(prompts, samples)``; 0 where there is no reward, or none to compare with.
    """
    apart = rewards - rewards.nanmean(1, keepdim=True)
    if scale_rewards == "group":
        apart = apart / (_deviation(rewards, 1) + TINY)
    elif scale_rewards == "batch":
        apart = apart / (_deviation(rewards.flatten(), 0) + TINY)
    return apart.nan_to_num(0.0)


def _deviation(rewards: Tensor, along: int) -> Tensor:
    """The standard deviation of a sample, of those rewards that are there."""
    squares = (rewards - rewards.nanmean(along, keepdim=True)).square()
    count = (~rewards.isnan()).sum(along, keepdim=True)
    return (squares.nansum(along, keepdim=True) / (count - 1).clamp(min=1)).sqrt()


@dataclass(frozen=True)
class Loss:
    """One type of loss: the paper it is from, and what the summed loss of a sample's tokens is divided by.

    It is told the tokens of each sample, their mean over a step, and ``max_completion_length``.
    """

    source: str
    divisor: Callable[[Tensor, float, int], Tensor | float]


LOSSES = {
    "grpo": Loss("GRPO: Shao et al., 2024, arXiv:2402.03300", lambda tokens, mean, longest: tokens),
    "dr_grpo": Loss("Dr. GRPO: Liu et al., 2025, arXiv:2503.20783", lambda tokens, mean, longest: longest),
    "dapo": Loss("DAPO: Yu et al., 2025, arXiv:2503.14476", lambda tokens, mean, longest: mean),
}
"""Types of GRPO's loss; a new one is one entry. They differ in how much the tokens of long samples count."""


def grpo(
    samples: Samples,
    *,
    mean_tokens: float,
    max_completion_length: int,
    loss_type: str = "dapo",
    beta: float = 0.0,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
) -> Tensor:
    """Compute the loss of group relative policy optimization.

    Parameters
    ----------
    samples : Samples
        All of a step or, since each has a loss of its own, a part of them.
    mean_tokens : float
        Tokens of all samples of a step, in all processes, divided by the number of these samples.
    max_completion_length : int
        How many tokens a sample may have.
    loss_type : str, default "dapo"
        One of :data:`LOSSES`.
    beta : float, default 0.0
        Weight of the divergence from the reference.
    epsilon, epsilon_high : float
        By how much a probability may fall or rise, relatively, and still be learned from; both 0.2 by default.

    Returns
    -------
    torch.Tensor
        Of each sample, shape ``(n,)``, so that the mean over a step is the loss of TRL.
    """
    weights = samples.advantages.repeat_interleave(samples.tokens)
    sampled = samples.policy.detach() if samples.sampled is None else samples.sampled
    ratio = (samples.policy - sampled).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high))
    losses = -(ratio * weights).minimum(clipped * weights)
    if beta:
        assert samples.reference is not None
        # The ratio, which is 1 in the first step, makes the gradient that of the divergence, as in TRL and in
        # DeepSeek-V3.2 (2025, arXiv:2512.02556); without it GRPO's paper has another.
        losses = losses + beta * ratio * divergence(samples.policy, samples.reference)
    owners = (samples.tokens.new_ones(len(samples.tokens)).cumsum(0) - 1).repeat_interleave(samples.tokens)
    sums = losses.new_zeros(len(samples.tokens)).index_add(0, owners, losses)
    return sums / LOSSES[loss_type].divisor(samples.tokens, mean_tokens, max_completion_length)


def divergence(policy: Tensor, reference: Tensor) -> Tensor:
    """Estimate the divergence of the policy from the reference at each sampled token, in nats, never below 0.

    The mean over samples of the policy is right; the third of Schulman's estimators (2020,
    http://joschu.net/blog/kl-approx.html).
    """
    apart = reference - policy
    return apart.exp() - apart - 1

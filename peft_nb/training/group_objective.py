"""What is learned of a model's own answers: which of several to one prompt got the higher reward."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from statistics import fmean
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from peft_nb.data.examples import Example
from peft_nb.training.gather import gathered
from peft_nb.training.group_losses import Samples, advantages, divergence, grpo
from peft_nb.training.packing import supervised_targets
from peft_nb.training.sequence_objective import Group, SequenceObjective

Drawn = tuple[list[int], float]
"""An answer, in tokens, and its reward; NaN where it has none."""

Rollout = Callable[[Sequence[Example], int, bool], list[list[Drawn]]]
"""Draws so many answers to each prompt; the last says whether the model learns from them."""


@dataclass(frozen=True)
class Sample(Group):
    """One answer of the model's own, with what was made of its reward.

    Attributes
    ----------
    reward : float
        NaN where there is none.
    advantage : float
        How much better it is than the other answers to its prompt.
    spread : float
        Standard deviation of the rewards of these; NaN where there is one answer alone.
    before : torch.Tensor or None
        Log-probabilities of its tokens by the reference, where it is compared with one.
    """

    reward: float = math.nan
    advantage: float = 0.0
    spread: float = math.nan
    before: torch.Tensor | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class GroupObjective(SequenceObjective):
    """Group relative policy optimization.

    An example is a prompt. Each becomes, in training, several samples that are learned one by one; in an evaluation one
    sample, whose loss is minus its reward. Without a rollout it becomes samples as long as they may be, by which
    memory and time are foreseen.

    Attributes
    ----------
    count : int
        Samples of a prompt.
    longest : int
        Tokens of a sample, at most.
    scale : {"group", "batch", "none"}
        As of :func:`peft_nb.training.group_losses.advantages`.
    options : dict
        ``loss_type``, ``beta`` and ``epsilon`` of :func:`peft_nb.training.group_losses.grpo`.
    rollout : list of callable
        One, see :data:`Rollout`, or none yet.
    mean : list of float
        Tokens of a sample of the present step, on average.
    """

    count: int
    longest: int
    scale: Literal["group", "batch", "none"]
    options: dict[str, Any]
    rollout: list[Rollout] = field(default_factory=list, init=False, repr=False, compare=False)
    mean: list[float] = field(default_factory=list, init=False, repr=False, compare=False)

    def begin(self, model: nn.Module, examples: Sequence[Any], budget: int, device: torch.device) -> Sequence[Any]:
        """Draw samples of each prompt, have them rewarded, and say how much better each is than the others.

        Of several processes each draws those of its own prompts; what they are compared with is of all.
        """
        if not self.rollout:
            return examples
        learning = model.training
        count = self.count if learning else 1
        drawn = self.rollout[0](examples, count, learning)
        rewards = torch.tensor([[reward for _, reward in answers] for answers in drawn]).view(-1, count)
        better = torch.zeros_like(rewards)
        if learning:
            shares = gathered((rewards, [len(ids) for answers in drawn for ids, _ in answers]))
            place = dist.get_rank() if len(shares) > 1 else 0
            every = advantages(torch.cat([share for share, _ in shares]), scale_rewards=self.scale)
            better = every.split([len(share) for share, _ in shares])[place]
            self.mean[:] = [fmean(chain.from_iterable(lengths for _, lengths in shares))]
        alone = not learning or self.count == 1
        samples = [
            Sample((_sequence(example, ids),), (), reward, gain, math.nan if alone else spread)
            for example, answers, gains, spread in zip(examples, drawn, better.tolist(), _spreads(rewards), strict=True)
            for (ids, reward), gain in zip(answers, gains, strict=True)
        ]
        return self._compared(model, samples, budget, device) if self.options["beta"] else samples

    def _compared(self, model: Any, samples: list[Sample], budget: int, device: torch.device) -> list[Sample]:
        """Give samples what the reference, which is the base, makes of their tokens."""
        training, found = model.training, list[Sample]()
        model.eval()
        try:
            with torch.no_grad(), model.disable_adapter():
                for micro in self.cut(samples, budget):
                    tokens = self.log_probs(model, micro, device)
                    found += [replace(one, before=of) for one, (of,) in zip(micro, tokens, strict=True)]
        finally:
            model.train(training)
        return found

    def foreseen(self, example: Example) -> list[Sample]:
        """Samples as long as they may be, with rewards that differ."""
        ids, length = list(example.ids), self.longest
        fillers = ([ids[(start + place) % len(ids)] for place in range(length)] for start in range(self.count))
        return [Sample((_sequence(example, one),), advantage=(-1.0) ** place) for place, one in enumerate(fillers)]

    def cut(self, examples: Sequence[Any], budget: int) -> list[list[Any]]:
        """Cut samples, or those that prompts will become, into micro-batches."""
        samples = [sample for one in examples for sample in ([one] if isinstance(one, Sample) else self.foreseen(one))]
        return super().cut(samples, budget)

    def table(self, model: nn.Module, groups: Sequence[Group], device: torch.device) -> torch.Tensor:
        """Part of each sample in the loss of its prompt, and what :meth:`summary` takes."""
        found = [one for (one,) in self.log_probs(model, groups, device)]
        policy, tokens = torch.cat(found), torch.tensor([len(one) for one in found], device=device)
        gains = torch.tensor([one.advantage for one in groups], device=device)  # type: ignore[attr-defined]
        before = [one.before for one in groups if one.before is not None]  # type: ignore[attr-defined]
        reference = torch.cat(before) if before else policy.detach()
        losses = grpo(
            Samples(policy, tokens, gains, reference=reference),
            mean_tokens=self.mean[0] if self.mean else float(self.longest),
            max_completion_length=self.longest,
            **self.options,
        )
        rest = self._measured(groups, device, losses.dtype)
        if before:
            apart = divergence(policy.detach(), reference).split(tokens.tolist())
            rest[:, 4] = torch.stack([one.mean() for one in apart])
        return torch.cat((losses[:, None] / self.count, rest), dim=1)

    def _measured(self, groups: Sequence[Any], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """Reward, spread in its group, tokens, whether the group has no difference; the divergence is not known yet."""
        rows = [
            (
                one.reward,
                one.spread,
                len(supervised_targets(one.sequences[0])),
                math.nan if math.isnan(one.spread) else float(one.spread == 0),
                math.nan,
            )
            for one in groups
        ]
        return torch.tensor(rows, device=device, dtype=dtype)

    @torch.no_grad()
    def scores(self, model: nn.Module, groups: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Minus the reward of each sample; one without a reward does not count."""
        rest = self._measured(groups, device, torch.float64)
        known = ~rest[:, :1].isnan()
        if self.options["beta"]:
            rest[:, 4] = self.table(model, groups, device)[:, 5]
        return torch.cat((-rest[:, :1].nan_to_num(0.0), torch.full_like(rest[:, :1], math.nan), known, rest), dim=1)

    def summary(self, measured: torch.Tensor) -> dict[str, float]:
        """Means over the samples of which something is known."""
        reward, spread, length, equal, kl = measured.double().T
        known = reward[~reward.isnan()]
        alone = bool(spread.isnan().all())
        found = {
            "eval_reward": reward.nanmean(),
            "eval_reward_std": known.std(correction=len(known) > 1) if alone else spread.nanmean(),
            "eval_completion_length": length.mean(),
            "eval_equal_rewards": equal.nanmean(),
            "eval_kl": kl.nanmean(),
        }
        return {name: value.item() for name, value in found.items() if value.isfinite()}


def _sequence(example: Example, ids: Sequence[int]) -> Example:
    """A prompt with an answer, which alone is in the loss."""
    return Example(example.ids + array("i", ids), bytes(len(example.ids)) + b"\x01" * len(ids))


def _spreads(rewards: torch.Tensor) -> list[float]:
    """The standard deviation of the rewards in each row, of those that are there."""
    rows = [row[~row.isnan()] for row in rewards]
    return [row.std().item() if len(row) > 1 and row.max() > row.min() else 0.0 for row in rows]

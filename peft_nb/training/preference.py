"""What is learned of answers that people have judged: of two which one they prefer, or of one whether it is good."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Self

import torch
from torch import nn

from peft_nb.data.examples import Example, parts
from peft_nb.training.gather import gathered
from peft_nb.training.packing import supervised_targets
from peft_nb.training.preference_losses import Answers, kto, rewards
from peft_nb.training.sequence_objective import Group, SequenceObjective

Reference = dict[bytes, tuple[float, ...]]
"""Log-probabilities of the sequences of an example by what is compared with, by :func:`key`."""


def key(example: Example) -> bytes:
    """Name an example by what it holds."""
    return hashlib.blake2b(bytes(example.ids) + example.supervised + repr(example.labels).encode()).digest()


@dataclass(frozen=True)
class Preference(SequenceObjective):
    """What DPO, SimPO, ORPO and KTO have in common.

    Attributes
    ----------
    beta : float
        Scale of the rewards.
    reference : dict or None
        Of all examples, see :data:`Reference`; None where nothing is compared with.
    """

    beta: float
    reference: Reference | None = field(repr=False, compare=False)
    own = False  # whether the model is the reference itself, whose log-probabilities are known

    def of_reference(self) -> Self:
        """Give the same for a model that is the reference itself: no log-probability is computed again."""
        made = copy(self)
        object.__setattr__(made, "own", True)
        return made

    def sequences(self, example: Example) -> tuple[Example, ...]:
        """What is computed of an example."""
        return parts(example)

    def group(self, example: Any) -> Group:
        """The sequences of an example with what they are compared with."""
        if isinstance(example, Group):
            return example
        return Group(self.sequences(example), (self.reference or {}).get(key(example), ()))

    def passes(self, group: Group) -> list[Group]:
        """What is computed of a group: all of it at once, or each part after the same part of all other groups."""
        return [group]

    def prepare(self, examples: Sequence[Example]) -> None:
        """Look at all examples of a part of the data before any of them is grouped."""

    def remember(self, examples: Sequence[Example], found: Sequence[Sequence[float]]) -> None:
        """Compare with these log-probabilities of the sequences of some examples."""
        assert self.reference is not None
        self.reference.update(zip(map(key, examples), map(tuple, found), strict=True))

    def sums(self, model: nn.Module, groups: Sequence[Group], device: torch.device) -> list[torch.Tensor]:
        """Log-probabilities of the sequences of each group, in nats, differentiable unless they are the reference's."""
        if self.own:
            return [torch.tensor(group.reference, device=device) for group in groups]
        found = self.log_probs(model, groups, device)
        return [torch.stack([one.sum() for one in sequences]) for sequences in found]


@dataclass(frozen=True)
class Pairs(Preference):
    """Which of two answers is preferred.

    Attributes
    ----------
    learned : callable
        From :class:`Answers` to the loss of each pair, shape ``(pairs,)``.
    """

    learned: Callable[[Answers], torch.Tensor]

    def table(self, model: nn.Module, groups: Sequence[Group], device: torch.device) -> torch.Tensor:
        """Loss, whether the chosen answer has the higher reward, by how much, and both log-probabilities."""
        chosen, rejected = torch.stack(self.sums(model, groups, device)).T
        counts = [[len(supervised_targets(one)) for one in group.sequences] for group in groups]
        lengths = torch.tensor(counts, device=device).T
        before: Any = (None, None)
        if self.reference is not None:
            before = torch.tensor([group.reference for group in groups], device=device).T
        answers = Answers(chosen, rejected, *lengths, *before)
        with torch.no_grad():
            found = rewards(answers, beta=self.beta)
        measured = found.accuracy, found.margin, chosen.detach(), rejected.detach()
        return torch.stack((self.learned(answers), *measured), dim=1)

    def summary(self, measured: torch.Tensor) -> dict[str, float]:
        """Means over the pairs."""
        names = "preference_accuracy", "eval_margin", "eval_chosen_logps", "eval_rejected_logps"
        return dict(zip(names, measured.mean(0).tolist(), strict=True))


@dataclass(frozen=True)
class Rated(Preference):
    """Whether an answer is good, by KTO (Ethayarajh et al., 2024, arXiv:2402.01306).

    How far the model is from its reference is estimated on answers to other prompts than their own: each prompt with
    the answer of the next row, as in TRL; once for all micro-batches of a step.

    Attributes
    ----------
    weights : mapping of str to float
        ``desirable_weight`` and ``undesirable_weight``.
    others : dict
        For each example, by :func:`key`, its prompt with another's answer.
    kl : list of float
        The estimate for the present step, in nats.
    """

    weights: dict[str, float]
    others: dict[bytes, Example] = field(default_factory=dict, init=False, repr=False, compare=False)
    kl: list[float] = field(default_factory=list, init=False, repr=False, compare=False)

    def prepare(self, examples: Sequence[Example]) -> None:
        """Put the answer of the next row behind each prompt."""
        for place, example in enumerate(examples):
            other = examples[(place + 1) % len(examples)]
            start, begun = example.supervised.index(1), other.supervised.index(1)
            ids = example.ids[:start] + other.ids[begun:]
            self.others[key(example)] = Example(ids, bytes(start) + other.supervised[begun:])

    def sequences(self, example: Example) -> tuple[Example, ...]:
        """The answer and, where it is known, the other one to the same prompt."""
        other = self.others.get(key(example))
        return (example,) if other is None else (example, other)

    def passes(self, group: Group) -> list[Group]:
        """The answer, and the other one."""
        return [Group((one,), group.reference[place : place + 1]) for place, one in enumerate(group.sequences)]

    def begin(self, model: nn.Module, examples: Sequence[Any], budget: int, device: torch.device) -> Sequence[Any]:
        """Estimate how far the model is from its reference."""
        groups = [self.passes(self.group(one)) for one in examples]
        others = [other for _, *rest in groups for other in rest if other.reference]
        apart = list[float]()
        with torch.no_grad():
            for micro in self.cut(others, budget):
                found = self.sums(model, micro, device)
                apart += [float(one) - other.reference[0] for one, other in zip(found, micro, strict=True)]
        every = list(chain.from_iterable(gathered(apart)))
        self.kl[:] = [sum(every) / max(1, len(every))]
        return [answer for answer, *_ in groups]

    def table(self, model: nn.Module, groups: Sequence[Group], device: torch.device) -> torch.Tensor:
        """Loss, reward, whether the answer is good, and its log-probability."""
        policy = torch.cat(self.sums(model, groups, device))
        before = torch.tensor([one.reference or (0.0,) for one in groups], device=device)[:, 0]
        good = torch.tensor([bool(group.sequences[0].labels[0]) for group in groups], device=device)  # type: ignore[attr-defined]
        losses = kto(policy, before, good, (self.kl or [0.0])[0], beta=self.beta, **self.weights)
        reward = self.beta * (policy.detach() - before)
        return torch.stack((losses, reward, good.to(losses.dtype), policy.detach()), dim=1)

    def summary(self, measured: torch.Tensor) -> dict[str, float]:
        """How often a good answer has a higher reward than a bad one, by how much, and how likely both are."""
        reward, good, likely = measured[:, 0], measured[:, 1] > 0, measured[:, 2]
        above, below = reward[good], reward[~good]
        if not len(above) or not len(below):
            return {}
        right = ((above[:, None] - below).sign() + 1).mean() / 2
        return {
            "preference_accuracy": right.item(),
            "eval_margin": (above.mean() - below.mean()).item(),
            "eval_chosen_logps": likely[good].mean().item(),
            "eval_rejected_logps": likely[~good].mean().item(),
        }

"""What is learned of whole sequences by their log-probabilities, such as of two answers which one is preferred."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from peft_nb.training import prefix_tree
from peft_nb.training.gather import gathered
from peft_nb.training.objectives import Padded, PaddingFree
from peft_nb.training.packing import Encoded


@dataclass(frozen=True)
class Group:
    """Sequences that are learned together, such as a chosen and a rejected answer or several samples of one prompt.

    Attributes
    ----------
    sequences : tuple of Encoded
        In an order that the objective knows; their supervised tokens count.
    reference : tuple of float
        Log-probability of each by the model that the objective compares with, in nats; empty where there is none.
    """

    sequences: tuple[Encoded, ...]
    reference: tuple[float, ...] = ()

    @cached_property
    def cost(self) -> int:
        """What it costs a micro-batch: its tokens, those that its sequences begin with alike once."""
        return prefix_tree.tokens(self.sequences)


@dataclass(frozen=True)
class SequenceObjective(ABC):
    """What a task learns of groups of sequences: it says in :meth:`table` what it makes of their log-probabilities.

    Attributes
    ----------
    path : Padded or PaddingFree
        How sequences are computed, as :func:`peft_nb.training.objectives.choose` finds for all of them.
    seen : list of torch.Tensor
        What the tables since the last log held.
    """

    path: Padded | PaddingFree
    seen: list[torch.Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def padded(self) -> bool:
        """Whether every sequence is padded to the longest of its micro-batch."""
        return self.path.padded

    @property
    def share_prefix(self) -> bool:
        """Whether leading tokens that sequences share, such as a prompt, are computed once."""
        return self.path.share_prefix

    @abstractmethod
    def table(self, model: nn.Module, groups: Sequence[Group], device: torch.device) -> torch.Tensor:
        """Loss of each group of a micro-batch, made of what :meth:`log_probs` gives, and what :meth:`summary` takes.

        Shape ``(groups, 1 + …)``; only the first column is differentiated.
        """

    def summary(self, measured: torch.Tensor) -> dict[str, float]:
        """Metrics of some groups by the columns of their tables behind the loss, as of the evaluation set.

        What begins with ``eval_`` is logged in training without that.
        """
        return {}

    def begin(self, model: nn.Module, examples: Sequence[Any], budget: int, device: torch.device) -> Sequence[Any]:
        """The groups that examples are; as of :meth:`peft_nb.training.objectives.Objective.begin`."""
        return [self.group(one) for one in examples]

    def group(self, example: Any) -> Group:
        """What an example is to be learned as."""
        return example if isinstance(example, Group) else Group((example,))

    def log_probs(
        self, model: nn.Module, groups: Sequence[Group], device: torch.device
    ) -> list[tuple[torch.Tensor, ...]]:
        """Compute the log-probabilities of the supervised tokens of each sequence.

        Parameters
        ----------
        model : torch.nn.Module
            With the path installed; while its adapter is disabled it is the reference that some objectives have.
        groups : sequence of Group
            A micro-batch.
        device : torch.device
            Where the model is.

        Returns
        -------
        list of tuple of torch.Tensor
            For each group one tensor a sequence, one number a token, in nats, float32; of a sequence they add up.
        """
        found: dict[int, torch.Tensor] = {}
        sequences = [one for group in groups for one in group.sequences]
        for micro in self.path.cut(sequences, sys.maxsize):  # several only where lengths have to be kept apart
            found.update(zip(map(id, micro), self.path.log_probs(model, micro, device), strict=True))
        return [tuple(found[id(one)] for one in group.sequences) for group in groups]

    def cut(self, examples: Sequence[Any], budget: int) -> list[list[Any]]:
        """Cut the groups that examples are into micro-batches of at most ``budget`` tokens, no group into two.

        Groups of like length lie together, or those that begin alike where prefixes are shared; a single group that
        costs more gets a micro-batch of its own.
        """

        def place(group: Group) -> Any:
            return group.sequences[0].ids if self.share_prefix else -max(one.cost for one in group.sequences)

        batches: list[list[Group]] = []
        for group in sorted(map(self.group, examples), key=place):
            if not batches or self._tokens([*batches[-1], group]) > budget:
                batches.append([])
            batches[-1].append(group)
        return batches

    def _tokens(self, groups: Sequence[Any]) -> int:
        """Tokens that a micro-batch computes."""
        sequences = [one for group in groups for one in group.sequences]
        if self.share_prefix:
            return prefix_tree.tokens(sequences)
        costs = [one.cost for one in sequences]
        return len(costs) * max(costs) if self.padded else sum(costs)

    def targets(self, groups: Sequence[Any]) -> int:
        """What a mean loss is divided by: the groups."""
        return len(groups)

    def loss(self, model: nn.Module, groups: Sequence[Group], device: torch.device) -> torch.Tensor:
        """Summed over the groups."""
        found = self.table(model, groups, device)
        if model.training:
            self.seen.append(found.detach()[:, 1:])
        return found[:, 0].sum()

    @torch.no_grad()
    def scores(self, model: nn.Module, groups: Sequence[Group], device: torch.device) -> torch.Tensor:
        """Loss of each group, 1 for what it counts, and what :meth:`summary` takes.

        As of :meth:`peft_nb.training.objectives.Objective.scores`.
        """
        found = self.table(model, groups, device).double()
        unknown, one = torch.full_like(found[:, :1], torch.nan), torch.ones_like(found[:, :1])
        return torch.cat((found[:, :1], unknown, one, found[:, 1:]), dim=1)

    def logged(self) -> dict[str, float]:
        """Metrics of the groups that were learned since this was last asked, by all processes."""
        seen = [one for share in gathered([one.cpu() for one in self.seen]) for one in share]
        found = self.summary(torch.cat(seen)) if seen else {}
        self.seen.clear()
        return {name.removeprefix("eval_"): value for name, value in found.items() if name.startswith("eval_")}

    def installed(self, model: PeftModel) -> AbstractContextManager[None]:
        """Make the model ready for the path while the context lasts."""
        return self.path.installed(model)

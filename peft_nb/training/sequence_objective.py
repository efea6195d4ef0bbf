"""What is learned of whole sequences by their log-probabilities, such as of two answers which one is preferred."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from peft_nb.training import prefix_tree
from peft_nb.training.objectives import Padded, PaddingFree
from peft_nb.training.packing import Encoded


@dataclass(frozen=True)
class Group:
    """Sequences that are learned together, such as a chosen and a rejected answer or several samples of one prompt.

    Attributes
    ----------
    sequences : tuple of Encoded
        In an order that the objective knows; their supervised tokens count.
    """

    sequences: tuple[Encoded, ...]

    @cached_property
    def cost(self) -> int:
        """What it costs a micro-batch: its tokens, those that its sequences begin with alike once."""
        return prefix_tree.tokens(self.sequences)


@dataclass(frozen=True)
class SequenceObjective(ABC):
    """What a task learns of groups of sequences: it says in :meth:`losses` what it makes of their log-probabilities.

    Attributes
    ----------
    path : Padded or PaddingFree
        How sequences are computed, as :func:`peft_nb.training.objectives.choose` finds for all of them.
    """

    path: Padded | PaddingFree

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
    def losses(self, model: nn.Module, groups: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Loss of each group of a micro-batch, shape ``(groups,)``, made of what :meth:`log_probs` gives."""

    def log_probs(
        self, model: nn.Module, groups: Sequence[Any], device: torch.device
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

    def cut(self, groups: Sequence[Any], budget: int) -> list[list[Any]]:
        """Cut groups into micro-batches of at most ``budget`` tokens, no group into two.

        Groups of like length lie together, or those that begin alike where prefixes are shared; a single group that
        costs more gets a micro-batch of its own.
        """

        def place(group: Any) -> Any:
            return group.sequences[0].ids if self.share_prefix else -max(one.cost for one in group.sequences)

        batches: list[list[Any]] = []
        for group in sorted(groups, key=place):
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

    def loss(self, model: nn.Module, groups: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Summed over the groups."""
        return self.losses(model, groups, device).sum()

    @torch.no_grad()
    def scores(self, model: nn.Module, groups: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Loss of each group, and 1 for what it counts; as of :meth:`peft_nb.training.objectives.Objective.scores`."""
        losses = self.losses(model, groups, device).double()
        return torch.stack((losses, torch.full_like(losses, torch.nan), torch.ones_like(losses)), dim=1)

    def installed(self, model: PeftModel) -> AbstractContextManager[None]:
        """Make the model ready for the path while the context lasts."""
        return self.path.installed(model)

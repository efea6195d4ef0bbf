"""Which examples each optimizer step sees, and how a step is cut into micro-batches that fit in memory."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from peft_nb.training import prefix_tree

IGNORE = -100

Item = TypeVar("Item")


class Encoded(Protocol):
    """One tokenised example: ``supervised[i]`` is true where ``ids[i]`` is a target."""

    @property
    def ids(self) -> Sequence[int]:
        """Token ids."""

    @property
    def supervised(self) -> Sequence[Any]:
        """Whether each token is a target."""

    @property
    def cost(self) -> int:
        """What it costs a micro-batch, in tokens."""


def plan(rows: int, batch_size: int, seed: int, epochs: float, max_steps: int | None = None) -> list[list[int]]:
    """Lay out a whole training run in advance, so that it can be resumed at any step and split over processes.

    Parameters
    ----------
    rows : int
        Number of training examples.
    batch_size : int
        Examples per optimizer step, over all processes.
    seed : int
        Fixes the order; every epoch is shuffled anew.
    epochs : float
        Passes over the data; the last may be partial.
    max_steps : int, optional
        Steps to take instead, as many epochs as that needs.

    Returns
    -------
    list of list of int
        The rows of every optimizer step. An epoch's last step may be smaller; no row is dropped.
    """
    steps_per_epoch = math.ceil(rows / batch_size)
    total = max_steps if max_steps is not None else math.ceil(epochs * steps_per_epoch)
    steps: list[list[int]] = []
    for epoch in range(math.ceil(total / steps_per_epoch)):
        order = list(range(rows))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        steps += [order[start : start + batch_size] for start in range(0, rows, batch_size)]
    return steps[:total]


def share_of(step: Sequence[Item], rank: int, processes: int) -> Sequence[Item]:
    """The rows of a step that one of several processes takes."""
    return step[rank::processes]


def micro_batches(
    examples: Sequence[Any], budget: int, padded: bool, share_prefix: bool = False, short: int = 0
) -> list[list[Any]]:
    """Cut a step into micro-batches that cost at most ``budget`` tokens: similar costs, or shared prefixes, together.

    The sum over a step does not depend on the cut, so the optimizer sees the batch that was asked for.

    Parameters
    ----------
    examples : sequence of Example
        The examples of one step; only their ``cost`` counts, and with `share_prefix` their ``ids``.
    budget : int
        Tokens in a micro-batch, padding included; a single longer example still gets one of its own.
    padded : bool
        Whether every example is padded to the longest of its micro-batch.
    share_prefix : bool, default False
        Whether leading tokens that examples share are computed, and counted, once a micro-batch.
    short : int, default 0
        Examples of at most so many tokens never lie in a micro-batch with longer ones; see :func:`short_positions`.

    Returns
    -------
    list of list
        At least one example each, what costs most first.
    """
    if share_prefix:
        apart = [[one for one in examples if (one.cost > short) == longer] for longer in (True, False)]
        return [micro for some in apart for micro in prefix_tree.arrange(some, budget)]
    batches: list[list[Any]] = []
    room = 0
    for example in sorted(examples, key=lambda one: -one.cost):
        if example.cost > room or example.cost <= short < batches[-1][0].cost:
            batches.append([])
            width = example.cost
            room = budget
        batches[-1].append(example)
        room -= width if padded else example.cost
        if padded and room < width:
            room = 0
    return batches


def short_positions(config: Any) -> int:
    """Up to how many tokens a model's positions are encoded otherwise than in longer texts, or 0 for all alike.

    LongRoPE and dynamic scaling choose the rotary frequencies of a whole micro-batch by its longest example; apart,
    each gets those that it would get alone, whatever the cut.
    """
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    for one in (rope, *(nested for nested in rope.values() if isinstance(nested, dict))):
        if one.get("rope_type") in ("longrope", "dynamic"):
            return int(one.get("original_max_position_embeddings") or config.max_position_embeddings)
    return 0


@dataclass(frozen=True)
class PackedRow:
    """Examples end to end in one row, ready for the padding-free forward pass.

    ``sources[i]`` is the position in the row whose hidden state predicts the token ``targets[i]``; ``parents[j]`` is
    the segment that segment ``j`` continues, before it in the row, or -1.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    segments: list[int]
    parents: list[int]
    sources: torch.Tensor
    targets: torch.Tensor

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """Keyword arguments for the model, tensors on ``device``."""
        fields = vars(self)
        return {name: sent(value, device) if torch.is_tensor(value) else value for name, value in fields.items()}


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy of a tensor of the host on a device, for which nobody waits."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def pack(examples: Sequence[Encoded], share_prefix: bool) -> PackedRow:
    """Lay examples end to end, computing leading tokens that some of them share only once.

    Parameters
    ----------
    examples : sequence of Encoded
        The examples of one micro-batch.
    share_prefix : bool
        Whether what examples share may become segments of their own.

    Returns
    -------
    PackedRow
        One row, its targets in the order of the examples.
    """
    if share_prefix:
        nodes, ends = prefix_tree.tree(examples)
    else:
        nodes = [prefix_tree.Node(row, 0, len(one.ids), -1) for row, one in enumerate(examples)]
        ends = list(range(len(examples)))
    ids: list[int] = []
    positions: list[int] = []
    paths: list[list[int]] = []  # of each node: where the tokens of a row that ends in it lie
    for row, start, stop, parent in nodes:
        paths.append((paths[parent] if parent >= 0 else []) + list(range(len(ids), len(ids) + stop - start)))
        ids += examples[row].ids[start:stop]
        positions += range(start, stop)
    sources: list[int] = []
    targets: list[int] = []
    for example, end in zip(examples, ends, strict=True):
        for index in supervised_targets(example):
            sources.append(paths[end][index - 1])
            targets.append(example.ids[index])
    return PackedRow(
        torch.tensor([ids]),
        torch.tensor([positions]),
        [node.stop - node.start for node in nodes],
        [node.parent for node in nodes],
        torch.tensor(sources),
        torch.tensor(targets),
    )


def supervised_targets(example: Encoded) -> list[int]:
    """Positions of the tokens that are predicted and trained on; the first token has nothing before it."""
    return [index for index, on in enumerate(example.supervised) if on and index]


def pad(examples: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    """Stack examples as rows of equal length, padded on the right.

    Parameters
    ----------
    examples : sequence of Encoded
        The examples of one micro-batch.
    pad_id : int
        Token id to pad with; it is neither attended to nor trained on.

    Returns
    -------
    dict of str to torch.Tensor
        ``input_ids``, ``attention_mask`` and ``labels``, each of shape ``(examples, longest)``.
    """
    width = max(len(one.ids) for one in examples)
    ids = torch.full((len(examples), width), pad_id)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORE)
    for row, example in enumerate(examples):
        length = len(example.ids)
        ids[row, :length] = torch.tensor(list(example.ids))
        mask[row, :length] = 1
        wanted = supervised_targets(example)
        labels[row, wanted] = ids[row, wanted]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}

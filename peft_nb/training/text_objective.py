"""From texts to what a head says of them, and its loss: padded, or with the padding taken out around the base."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from peft_nb.training import attention, fused, gpu_attention, objectives
from peft_nb.training.packing import sent, short_positions

HeadLoss = Callable[[torch.Tensor, Sequence[Any]], torch.Tensor]
"""The logits of some texts, shape ``(texts, outputs)``, float32, and the texts: their loss summed over the texts."""


@dataclass(frozen=True)
class HeadMetrics:
    """What is measured of a head beside its loss, in the same pass.

    Attributes
    ----------
    marks : callable
        From the logits of some inputs, shape ``(inputs, outputs)``, and the inputs to what is needed of each, shape
        ``(inputs, columns)``.
    summary : callable
        From the marks of all inputs to metrics.
    """

    marks: Callable[[torch.Tensor, Sequence[Any]], torch.Tensor]
    summary: Callable[[torch.Tensor], dict[str, float]]


class HeadObjective(objectives.Cutting, ABC):
    """What a head on top of a base learns about whole inputs, such as texts or images."""

    head_loss: HeadLoss
    metrics: HeadMetrics | None

    @abstractmethod
    def logits(self, model: nn.Module, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Logits of some inputs, shape ``(inputs, outputs)``, float32."""

    @abstractmethod
    def installed(self, model: PeftModel) -> AbstractContextManager[None]:
        """Make the model ready for this path while the context lasts."""

    def targets(self, examples: Sequence[Any]) -> int:
        """What a mean loss is divided by: the inputs."""
        return len(examples)

    def loss(self, model: nn.Module, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Summed over the inputs."""
        return self.head_loss(self.logits(model, examples, device), examples)

    @torch.no_grad()
    def scores(self, model: nn.Module, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Loss of each input, and 1 for what it counts; as of :meth:`peft_nb.training.objectives.Objective.scores`."""
        logits = self.logits(model, examples, device)
        losses = torch.stack(
            [self.head_loss(one[None], [example]) for one, example in zip(logits, examples, strict=True)]
        )
        found = torch.stack((losses, torch.full_like(losses, torch.nan), torch.ones_like(losses)), dim=1).double()
        return torch.cat((found, self.metrics.marks(logits, examples).to(found)), dim=1) if self.metrics else found

    def summary(self, measured: torch.Tensor) -> dict[str, float]:
        """Metrics of some inputs by their marks."""
        return self.metrics.summary(measured) if self.metrics else {}


@dataclass(frozen=True)
class TextObjective(HeadObjective):
    """What a head on top of a base learns about whole texts.

    Unpadded, the tokens of a micro-batch lie end to end in one row from the embeddings to the last hidden state;
    the head then finds them padded, and does what it always does.

    Attributes
    ----------
    pad_id : int
        Token to pad with.
    head_loss : callable
        From logits and examples to the summed loss.
    padded : bool
        Whether texts stay padded through the whole model.
    reason : str
        Why they do.
    metrics : HeadMetrics or None
        What evaluations measure beside the loss.
    """

    pad_id: int
    head_loss: HeadLoss
    padded: bool = True
    reason: str = ""
    share_prefix: bool = False
    short: int = 0
    metrics: HeadMetrics | None = None

    def __str__(self) -> str:
        return "padding-free" if not self.padded else f"padded ({self.reason})" if self.reason else "padded"

    def logits(self, model: nn.Module, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Logits of some texts, shape ``(texts, outputs)``, float32."""
        lengths = [len(one.ids) for one in examples]
        ids = torch.full((len(examples), max(lengths)), self.pad_id)
        mask = torch.zeros_like(ids)
        for row, example in enumerate(examples):
            ids[row, : len(example.ids)] = torch.tensor(list(example.ids))
            mask[row, : len(example.ids)] = 1
        ids = sent(ids, device)
        ids.lengths = lengths  # type: ignore[attr-defined]
        return model(input_ids=ids, attention_mask=sent(mask, device)).logits.float()

    @contextmanager
    def installed(self, model: PeftModel) -> Iterator[None]:
        """Take the padding out around the base while the context lasts, unless this objective is padded."""
        with ExitStack() as stack:
            if not self.padded:
                body = model.get_base_model().base_model
                stack.enter_context(attention.installed(body))
                stack.enter_context(fused.installed(model))
                body.forward = _unpadded(body)
                stack.callback(body.__dict__.pop, "forward")
            yield


def _unpadded(body: Any) -> Callable[..., BaseModelOutputWithPoolingAndCrossAttentions]:
    inner = body.forward

    def forward(
        input_ids: torch.Tensor, attention_mask: torch.Tensor, **ignored: Any
    ) -> BaseModelOutputWithPoolingAndCrossAttentions:
        rows, width = input_ids.shape
        # Known on the host, where nobody waits for a GPU to count; a wrapper may have made other tensors of these.
        lengths = getattr(input_ids, "lengths", None) or attention_mask.sum(1).tolist()
        places = torch.cat([torch.arange(length) + row * width for row, length in enumerate(lengths)])
        places = sent(places, input_ids.device)
        packed = input_ids.flatten()[places][None]
        hidden = inner(
            input_ids=packed,
            attention_mask=attention.nothing_hidden(packed),
            position_ids=_positions(body, input_ids, attention_mask.bool()).flatten()[places][None],
            segments=lengths,
            use_cache=False,
        ).last_hidden_state[0]
        spread = hidden.new_zeros(rows * width, hidden.shape[-1]).index_copy(0, places, hidden)
        spread = spread.view(rows, width, -1)
        pooler = getattr(body, "pooler", None)
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=spread, pooler_output=pooler(spread) if pooler else None
        )

    return forward


def _positions(body: Any, input_ids: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """The positions of the tokens of some texts: from 0 or, in RoBERTa and its kin, after that of the padding."""
    table = getattr(getattr(body, "embeddings", None), "position_embeddings", None)
    unused = getattr(table, "padding_idx", None)
    if unused is None:
        return torch.arange(seen.shape[1], device=seen.device).expand_as(seen)
    own = seen & (input_ids != unused)
    return unused + own.cumsum(1) * own


def foresee(model: Any, pad_id: int, head_loss: HeadLoss, *, fast: bool, supported: bool) -> TextObjective:
    """Pick the objective that :func:`choose` will pick unless its check finds a fault; computes nothing.

    Parameters
    ----------
    model : PeftModel
        The model with its head and adapter; shapes are enough.
    pad_id : int
        Token to pad with.
    head_loss : callable
        See :data:`HeadLoss`.
    fast : bool
        Whether the user wants the padding-free path.
    supported : bool
        Whether the method can use it: it must add no virtual tokens.

    Returns
    -------
    TextObjective
        Padding-free, or padded with the reason for it.
    """
    body = model.get_base_model().base_model
    reason = objectives.unwanted(body, fast, supported)
    return TextObjective(pad_id, head_loss, bool(reason), reason, short=short_positions(body.config))


def choose(
    model: PeftModel,
    examples: Sequence[Any],
    pad_id: int,
    device: torch.device,
    head_loss: HeadLoss,
    *,
    fast: bool,
    supported: bool,
) -> TextObjective:
    """Pick the padding-free path if it gives this model's losses and gradients, the padded one otherwise.

    Both are run on a few short cuts of the texts before the first step; see :mod:`peft_nb.training.selfcheck`.

    Parameters
    ----------
    model : PeftModel
        The model with its head and the adapter that will be trained.
    examples : sequence of Example
        Training examples.
    pad_id, head_loss, fast, supported
        As for :func:`foresee`.
    device : torch.device
        Where the model is.

    Returns
    -------
    TextObjective
        Padding-free, or padded with the reason for it.
    """
    wanted = foresee(model, pad_id, head_loss, fast=fast, supported=supported)
    if wanted.padded:
        return wanted
    padded, body = replace(wanted, padded=True), model.get_base_model().base_model
    dtype = body.get_input_embeddings().weight.dtype
    reason = gpu_attention.unserved(body.config, dtype, device, tree=False)
    reason = reason or objectives.fault(model, wanted, padded, examples, device, dtype)
    return replace(padded, reason=reason) if reason else wanted

"""From labelled texts to logits and their loss: padded, or with the padding taken out around the base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from peft_nb.training import attention, fused, objectives


class Labelled(Protocol):
    """A tokenised text and the numbers of its classes."""

    @property
    def ids(self) -> Sequence[int]:
        """Token ids."""

    @property
    def labels(self) -> Sequence[int]:
        """Numbers of the text's classes."""


@dataclass(frozen=True)
class Classifying:
    """The path of a classifier.

    Unpadded, the tokens of a micro-batch lie end to end in one row from the embeddings to the last hidden state;
    the head then finds them padded, and does what it always does.

    Attributes
    ----------
    pad_id : int
        Token to pad with.
    multi : bool
        Whether a text can have several classes: a sigmoid for each, else one softmax over all.
    padded : bool
        Whether texts stay padded through the whole model.
    reason : str
        Why they do.
    """

    pad_id: int
    multi: bool
    padded: bool = True
    reason: str = ""
    share_prefix: bool = False

    def __str__(self) -> str:
        return "padding-free" if not self.padded else f"padded ({self.reason})" if self.reason else "padded"

    def targets(self, examples: Sequence[Labelled]) -> int:
        """What a mean loss is divided by: the texts."""
        return len(examples)

    def logits(self, model: nn.Module, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Logits of some texts, shape ``(texts, classes)``, float32."""
        width = max(len(one.ids) for one in examples)
        ids = torch.full((len(examples), width), self.pad_id)
        mask = torch.zeros_like(ids)
        for row, example in enumerate(examples):
            ids[row, : len(example.ids)] = torch.tensor(list(example.ids))
            mask[row, : len(example.ids)] = 1
        return model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits.float()

    def loss(self, model: nn.Module, examples: Sequence[Labelled], device: torch.device) -> torch.Tensor:
        """Summed over the texts: cross-entropy in nats, for several classes a text its mean over the classes."""
        logits = self.logits(model, examples, device)
        if not self.multi:
            wanted = torch.tensor([one.labels[0] for one in examples], device=device)
            return F.cross_entropy(logits, wanted, reduction="sum")
        own = torch.zeros_like(logits)
        for row, example in enumerate(examples):
            own[row, list(example.labels)] = 1
        return F.binary_cross_entropy_with_logits(logits, own, reduction="none").mean(1).sum()

    @contextmanager
    def installed(self, model: PeftModel) -> Iterator[None]:
        """Take the padding out around the base while the context lasts, unless this path is padded."""
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
        seen = attention_mask.bool()
        positions = torch.arange(seen.shape[1], device=seen.device).expand_as(seen)
        hidden = inner(
            input_ids=input_ids[seen][None],
            position_ids=positions[seen][None],
            segments=attention_mask.sum(1).tolist(),
            use_cache=False,
        ).last_hidden_state[0]
        rows = hidden.new_zeros(*seen.shape, hidden.shape[-1]).index_put((seen,), hidden)
        pooler = getattr(body, "pooler", None)
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=rows, pooler_output=pooler(rows) if pooler else None
        )

    return forward


def choose(
    model: PeftModel,
    examples: Sequence[Labelled],
    pad_id: int,
    device: torch.device,
    *,
    multi: bool,
    fast: bool,
    supported: bool,
) -> Classifying:
    """Pick the padding-free path if it gives this classifier's losses and gradients, the padded one otherwise.

    Both are run on the shortest and the longest text before the first step.

    Parameters
    ----------
    model : PeftModel
        The classifier with the adapter that will be trained.
    examples : sequence of Labelled
        Training examples.
    pad_id : int
        Token to pad with.
    device : torch.device
        Where the model is.
    multi : bool
        Whether a text can have several classes.
    fast : bool
        Whether the user wants the padding-free path.
    supported : bool
        Whether the method can use it: it must add no virtual tokens.

    Returns
    -------
    Classifying
        The path, the padded one with the reason for it.
    """
    body = model.get_base_model().base_model
    reason = objectives.unwanted(body, fast, supported)
    if not reason:
        probe = [end(examples, key=lambda one: len(one.ids)) for end in (min, max)]
        objective = Classifying(pad_id, multi, padded=False)
        dtype = body.get_input_embeddings().weight.dtype
        reason = objectives.fault(model, objective, Classifying(pad_id, multi), probe, device, dtype)
    return Classifying(pad_id, multi, padded=bool(reason), reason=reason)

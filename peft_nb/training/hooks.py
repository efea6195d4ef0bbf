"""What a method may want done besides the usual in a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


class Hooks:
    """What a method wants done at certain points of a run; nothing, unless it is overridden.

    Attributes
    ----------
    fresh : str
        Why a run cannot start from an adapter that was saved; empty where it can.
    """

    fresh = ""

    def begin(self, model: PeftModel, batches: Iterable[dict[str, Any]]) -> None:
        """Prepare a model with a fresh adapter; `batches` are a few padded batches of training examples."""

    def penalty(self, model: PeftModel) -> torch.Tensor | None:
        """What is added to the loss of a step, in nats, or None."""
        return None

    def faster(self, name: str) -> float:
        """How many times the usual learning rate a parameter has, by its name."""
        return 1.0

    def stepped(self, model: PeftModel, step: int) -> None:
        """Follow an optimizer step, before the gradients are cleared; steps count from 1."""

    def state(self, model: PeftModel) -> dict[str, torch.Tensor]:
        """What a checkpoint has to keep besides the adapter and the optimizer."""
        return {}

    def restore(self, model: PeftModel, state: dict[str, torch.Tensor]) -> None:
        """Go on from what :meth:`state` gave, after :meth:`begin` and after the adapter has been read back."""

    def end(self, model: PeftModel) -> None:
        """Leave an adapter that plain PEFT can load, when training is over."""

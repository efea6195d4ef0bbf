"""The lower blocks of a model that no training changes: what they make of an input is computed once and kept.

Exact: below the first block with anything to train, and without dropout, a block gives the same for the same input in
every epoch. What it gave is kept as long as it takes little memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import nn

from peft_nb.system.resources import MB, memory_available_mb

SHARE = 0.25  # of the free memory, at most


class _AtBlock(Exception):
    """The first trained block has been given its input; what the model would make of it is not needed."""


class Frozen:
    """What lies below the first trained block of a stack, and what it made of the inputs seen so far.

    Attributes
    ----------
    at_work : bool
        Whether it is installed, and there is anything to save.
    """

    def __init__(self) -> None:
        self.at_work = False
        self._kept: dict[bytes, torch.Tensor] = {}
        self._given: torch.Tensor | None = None

    @contextmanager
    def installed(self, model: Any) -> Iterator[None]:
        """Let the lower blocks of a model pass on what they gave before, while the context lasts."""
        body, blocks = _stack(model)
        first = next((place for place, one in enumerate(blocks) if _trains(one)), 0)
        self._kept.clear()
        if not first or _trains(body.embeddings) or any(map(_drops_out, (body.embeddings, *blocks[:first]))):
            yield
            return
        self._first, self._room = blocks[first], SHARE * memory_available_mb() * MB
        with ExitStack() as stack:
            parts = [body.embeddings, *blocks[:first]]
            stocks = [part.forward for part in parts]
            for part, stock in zip(parts, stocks, strict=True):
                part.forward = self._passing(stock, ends=part in (parts[0], parts[-1]))
                stack.callback(part.__dict__.pop, "forward")
            self.at_work = True
            try:
                yield
            finally:
                self.at_work = False
                self._kept.clear()

    def logits(
        self,
        model: nn.Module,
        examples: Sequence[Any],
        inputs: Callable[[Any], torch.Tensor],
        options: Mapping[str, Any],
    ) -> torch.Tensor:
        """The model's logits for some examples, of which `inputs` makes what the model takes beside `options`."""
        keys = [hashlib.blake2b(one.signal, digest_size=16).digest() for one in examples]
        new = {key: one for key, one in zip(keys, examples, strict=True) if key not in self._kept}
        found = dict(self._kept) if not new else {key: self._kept[key] for key in keys if key in self._kept}
        if new:
            hidden = self._below(model, inputs(list(new.values())), options)
            found |= dict(zip(new, hidden, strict=True))
            self._keep(dict(zip(new, hidden, strict=True)))
        self._given = torch.stack([found[key] for key in keys])
        try:
            empty = inputs(examples[:1]).expand(len(examples), -1, -1, -1)  # only its shape is looked at
            logits: torch.Tensor = model(pixel_values=empty, **options).logits
            return logits
        finally:
            self._given = None

    def _below(self, model: nn.Module, given: torch.Tensor, options: Mapping[str, Any]) -> torch.Tensor:
        """What the lower blocks make of some inputs."""
        seen: list[torch.Tensor] = []

        def note(block: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            seen.append(args[0] if args else named["hidden_states"])
            raise _AtBlock

        with torch.no_grad(), self._first.register_forward_pre_hook(note, with_kwargs=True), suppress(_AtBlock):
            model(pixel_values=given, **options)
        return seen[0].detach()

    def _keep(self, hidden: dict[bytes, torch.Tensor]) -> None:
        with torch.inference_mode(False):  # training has to use it too
            for key, one in hidden.items():
                if one.nbytes <= self._room:
                    self._room -= one.nbytes
                    self._kept[key] = one.clone()

    def _passing(self, stock: Callable[..., Any], ends: bool) -> Callable[..., Any]:
        """The forward pass of a part below: its own, or that which passes on; the last gives what was kept."""

        def forward(*args: Any, **named: Any) -> Any:
            if self._given is None:
                return stock(*args, **named)
            return self._given if ends else args[0]

        return forward


def _stack(model: Any) -> tuple[Any, list[nn.Module]]:
    """The part of a vision model that has embeddings and a stack of blocks, and these; nothing of any other model."""
    for part in model.get_base_model().modules():
        if hasattr(part, "embeddings"):
            found = next((one for one in part.modules() if isinstance(one, nn.ModuleList)), None)
            alike = found is not None and len({type(one) for one in found}) == 1
            return part, list(found) if found is not None and alike else []
    return None, []


def _trains(part: nn.Module) -> bool:
    return any(one.requires_grad for one in part.parameters())


def _drops_out(part: nn.Module) -> bool:
    return any(isinstance(one, nn.Dropout) and one.p > 0 for one in part.modules()) or any(
        getattr(one, "drop_prob", 0) for one in part.modules()
    )

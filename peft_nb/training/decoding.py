"""Writing token by token: products with few rows, whose weights are laid out once instead of at each token.

A product of a few rows takes as long as its weights take to be read; in bfloat16 oneDNN would lay them out anew for
each, and LoRA makes three of one. Layers of one input, such as q, k and v, become one, and two for their adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from peft_nb.system import torch_private
from peft_nb.system.resources import memory_available_mb
from peft_nb.training import fused

SHARE = 0.5  # of the free memory, at most, for weights that are held a second time
FEWEST = 8  # tokens to write that are worth laying out the weights
TOLERANCE = 1e-2  # of a product in bfloat16, relative, that rounding explains

Forward = Callable[..., torch.Tensor]


class Linear(NamedTuple):
    """A linear layer, and what an adapter adds to it: ``x W^T + b + s (x A^T) B^T``."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    scaling: float = 0.0


@contextmanager
def installed(model: nn.Module, rows: int, tokens: int) -> Iterator[None]:
    """Run each linear layer with weights laid out for few rows while the context lasts.

    The first product of each kind is compared with that of the layer's own forward pass, which computes on where they
    differ by more than rounding; as it does in float32, on a GPU, for quantized weights, and where memory is short.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode, with its own forward pass; its weights stay as they are meanwhile.
    rows : int
        Answers that are written at once.
    tokens : int
        Tokens that are written, at most.
    """
    families = list(_families(model)) if tokens >= FEWEST else []
    size = sum(one.weight.nbytes for family in families for one in family.values())
    known: dict[Any, bool] = {}
    with ExitStack() as stack:
        if size < SHARE * 1e6 * memory_available_mb():
            for family in families:
                for layer, forward in zip(family, _forwards(family, rows, known), strict=True):
                    layer.forward = forward
                    stack.callback(vars(layer).pop, "forward")
        yield


def _families(model: nn.Module) -> Iterator[dict[nn.Module, Linear]]:
    """Linear layers that are given one input, and all others alone."""
    done = set[nn.Module]()
    for module in model.modules():
        for names in fused.SIBLINGS:
            several = {one: _linear(one) for name in names if (one := getattr(module, name, None)) is not None}
            found = [one for one in several.values() if one]
            if len(found) == len(names) and len({(one.weight.dtype, one.weight.shape[1]) for one in found}) == 1:
                done.update(part for layer in several for part in layer.modules())
                yield dict(zip(several, found, strict=True))
        if module not in done and (alone := _linear(module)):
            done.update(module.modules())
            yield {module: alone}


def _linear(layer: Any) -> Linear | None:
    """What a layer computes, where it is known and its weights can be laid out."""
    adapted = fused.simple(layer)
    linear = layer.get_base_layer() if adapted else layer
    if type(linear) is not nn.Linear or "forward" in vars(layer) or "forward" in vars(linear):
        return None
    if type(linear.weight) is not nn.Parameter or not torch_private.packs(linear.weight):
        return None
    if not adapted or layer.disable_adapters:
        return Linear(linear.weight, linear.bias)
    name = layer.active_adapters[0]
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    return Linear(linear.weight, linear.bias, down, up, layer.scaling[name])


def _forwards(family: dict[nn.Module, Linear], rows: int, known: dict[Any, bool]) -> list[Forward]:
    """Forward passes of layers that are given the same input one after the other; the first computes for all."""
    layers, parts = list(family), list(family.values())
    product = _product(parts, rows)
    widths = [one.weight.shape[0] for one in parts]
    kind = (parts[0].weight.dtype, *(part if part is None else part.shape for one in parts for part in one[:4]))
    waiting: list[Any] = [None] * len(layers)  # input and output, until they are asked for

    def forward(x: torch.Tensor, place: int) -> torch.Tensor:
        own = partial(type(layers[place]).forward, layers[place])
        flat = x.reshape(-1, x.shape[-1])
        tried = (*kind, place, len(flat))
        if x.dtype != parts[0].weight.dtype or not known.get(tried, True):
            return own(x)
        if waiting[place] is None or waiting[place][0] is not x:
            outputs = product(flat).split(widths, dim=-1)
            waiting[:] = [(x, one.view(*x.shape[:-1], -1)) for one in outputs]
        (_, output), waiting[place] = waiting[place], None
        if tried not in known:
            known[tried] = _close(output, own(x))
            return output if known[tried] else own(x)
        return output

    return [partial(forward, place=place) for place in range(len(layers))]


def _product(parts: Sequence[Linear], rows: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The outputs of layers beside each other, of an input of shape ``(rows, in)``."""
    dtype = parts[0].weight.dtype
    weights = torch_private.packed(torch.cat([one.weight for one in parts]), rows)
    bias = None
    if any(one.bias is not None for one in parts):
        bias = torch.cat([one.weight.new_zeros(len(one.weight)) if one.bias is None else one.bias for one in parts])
    lora = [one for one in parts if one.down is not None]
    if not lora:
        return lambda x: torch_private.product(x, weights, bias)
    downs = torch_private.packed(torch.cat([one.down for one in lora]).to(dtype), rows)  # type: ignore[misc]
    blocks = [one.weight.new_empty(len(one.weight), 0) if one.up is None else one.scaling * one.up for one in parts]
    ups = torch_private.packed(torch.block_diag(*blocks).to(dtype), rows)
    return lambda x: torch_private.product_added(
        torch_private.product(x, downs), ups, torch_private.product(x, weights, bias)
    )


def _close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    apart = (found.float() - wanted.float()).norm() / wanted.float().norm()
    return bool(apart <= TOLERANCE) or torch.equal(found, wanted)


class Roomy(DynamicLayer):
    """Keys and values with room for tokens to come: each is written behind the others, instead of copied with them."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._held: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add tokens, and give all keys and values."""
        before, count = self.get_seq_length(), key_states.shape[-2]
        if not before:
            return super().update(key_states, value_states)
        if not self._fits(before + count):
            self._held = [nn.functional.pad(one, (0, 0, 0, count + self._room)) for one in (self.keys, self.values)]
        for held, new in zip(self._held, (key_states, value_states), strict=True):
            held[:, :, before : before + count] = new
        self.keys, self.values = (held[:, :, : before + count] for held in self._held)
        return self.keys, self.values

    def _fits(self, length: int) -> bool:
        """Whether there is room behind what is kept, in place of which others may have put several of each row."""
        if not self._held or self._held[0].data_ptr() != self.keys.data_ptr():
            return False
        return self._held[0].shape[:2] == self.keys.shape[:2] and self._held[0].shape[2] >= length


def cache(config: Any, room: int) -> DynamicCache:
    """An empty cache for a model, with room for so many tokens to write.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        The model's.
    room : int
        Tokens behind the prompt.

    Returns
    -------
    transformers.DynamicCache
        Layers that keep all that they see have the room; all others are transformers' own.
    """
    made = DynamicCache(config=config)
    made.layers = [Roomy(room) if type(one) is DynamicLayer else one for one in made.layers]
    return made

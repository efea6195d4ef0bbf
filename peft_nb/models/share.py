"""Module trees that share their tensors: every run changes its own tree, and the base stays as it was loaded.

Parameters of the copy are objects of their own over the same memory, so that what is set on them (``grad``,
``requires_grad``, another ``data`` by ``.to(...)``) stays in the copy. Only writing into the memory itself would
reach the base: whoever trains a base weight has to clone it first.

bitsandbytes changes its layers while they run. The first forward pass of an 8-bit layer moves the weight's
statistics into the layer. In evaluation mode a 4-bit layer on a CPU repacks its weight in place; that loses
precision and, worse, lets no gradient through in any later training step, without an error. Here no tree sees
what happens in another, and no 4-bit layer is ever repacked.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

Model = TypeVar("Model", bound=torch.nn.Module)


def share(model: Model) -> Model:
    """Copy a model's module tree without copying a tensor.

    Parameters
    ----------
    model : torch.nn.Module
        Any model, also one quantized by bitsandbytes, before or after its first forward pass.

    Returns
    -------
    torch.nn.Module
        A tree of new modules with a configuration of its own. Parameters are frozen and lie in the same memory;
        tied ones stay tied. Only 4-bit weights that a CPU has repacked already get memory of their own.
    """
    with _SameMemory():
        twin = copy.deepcopy(model)
    twin.requires_grad_(False)
    return keep_unpacked(twin)


def keep_unpacked(model: Model) -> Model:
    """Keep the 4-bit layers of a model from repacking their weights for the CPU.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place. It writes about half as many tokens a second as a repacked one, and can be trained,
        merged and saved at any time.

    Returns
    -------
    torch.nn.Module
        The same model.
    """
    bitsandbytes: Any = sys.modules.get("bitsandbytes")
    for module in model.modules() if bitsandbytes else ():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
            module.weight.module = module
            if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
                _unpack(module.weight)
            module.quant_state = module.weight.quant_state
    return model


class _SameMemory(TorchFunctionMode):
    """Let ``copy.deepcopy`` make new tensor objects over the old memory."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in (torch.Tensor.__deepcopy__, torch.Tensor.clone):
            return args[0].detach()
        return func(*args, **(kwargs or {}))


def _unpack(weight: Any) -> None:
    """Undo the packing of a 4-bit weight for the CPU; of its block scales only their bfloat16 rounding is left."""
    from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

    state = weight.quant_state
    scales = state.absmax.T.reshape(-1).float()
    state.original_nested = False  # its own way back would round the scales once more
    weight.data, state = _convert_weight_packed_for_cpu_inverse(weight.data, state)
    state.absmax, state.nested, state.offset, state.state2 = scales, False, None, None
    weight.quant_state = state

"""Layers as one autograd function each: the same numbers as the stock layers, fewer passes over memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn


class LoraProduct(torch.autograd.Function):
    """``x W^T + b + s (x A^T) B^T`` with gradients for x, A and B alone (Hu et al., 2021, arXiv:2106.09685).

    Only ``x`` and ``x A^T`` are kept for the backward pass. A and B may be float32 beside a base in bfloat16:
    products run in the base's dtype and gradients reach A and B in theirs, as autocast would have it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """Compute the layer's output.

        Parameters
        ----------
        ctx
            Autograd's context.
        x : torch.Tensor
            Input, shape ``(..., in_features)``.
        weight, bias : torch.Tensor
            The frozen base layer, shapes ``(out_features, in_features)`` and ``(out_features,)`` or ``None``.
        a, b : torch.Tensor
            The adapter, shapes ``(r, in_features)`` and ``(out_features, r)``.
        scaling : float
            ``alpha / r``, or what the LoRA variant makes of it.

        Returns
        -------
        torch.Tensor
            Shape ``(..., out_features)``.
        """
        flat = x.reshape(-1, x.shape[-1])
        a_cast, b_cast = a.to(x.dtype), b.to(x.dtype)
        output = flat @ weight.t() if bias is None else torch.addmm(bias, flat, weight.t())
        low = flat @ a_cast.t()
        output.addmm_(low, b_cast.t(), alpha=scaling)
        ctx.save_for_backward(flat, low, weight, a, b)
        ctx.scaling, ctx.shape = scaling, x.shape
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients for ``x``, ``a`` and ``b``."""
        flat, low, weight, a, b = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        low_grad = (grad @ b.to(grad.dtype)) * ctx.scaling
        a_grad = (low_grad.t() @ flat).to(a.dtype)
        b_grad = (grad.t() @ low).mul_(ctx.scaling).to(b.dtype)
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = (grad @ weight).addmm_(low_grad, a.to(grad.dtype)).view(ctx.shape)
        return x_grad, None, None, a_grad, b_grad, None


def fits(layer: Any) -> bool:
    """Whether a LoRA layer is plain enough for :class:`LoraProduct`; PEFT's own forward serves every other case."""
    if type(layer) is not LoraLinear or layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return False
    name, base = layer.active_adapters[0], layer.get_base_layer()
    return (
        name in layer.lora_A
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and name not in layer.lora_variant
        and layer.lora_B[name].bias is None
        and type(base) is nn.Linear
        and not base.weight.requires_grad
        and not layer.fan_in_fan_out
    )


@contextmanager
def installed(model: nn.Module) -> Iterator[None]:
    """Run every layer that fits as one function while the context lasts."""
    with ExitStack() as stack:
        for layer in model.modules():
            if fits(layer):
                layer.forward = _as_one_function(layer)
                stack.callback(layer.__dict__.pop, "forward")
        yield


def _as_one_function(layer: Any) -> Any:
    name, base = layer.active_adapters[0], layer.get_base_layer()
    a, b, scaling = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return LoraProduct.apply(x, base.weight, base.bias, a, b, scaling)

    return forward

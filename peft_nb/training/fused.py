"""Layers as one autograd function each: the same numbers as the stock layers, fewer passes over memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn

from peft_nb.training import compiled

GATED = ("gate_proj", "up_proj", "down_proj", "act_fn")
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # layers of one input


class Recipe(NamedTuple):
    """How a tensor is computed anew in the backward pass, from tensors that are kept anyway."""

    tensors: tuple[torch.Tensor, ...]
    make: Callable[..., torch.Tensor]


def anew(output: torch.Tensor, make: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> torch.Tensor:
    """Let who would keep an output for the backward pass keep instead what it was made of."""
    output.recipe = Recipe(tensors, make)  # type: ignore[attr-defined]
    return output


class LoraProducts(torch.autograd.Function):
    """``x W^T + b + s (x A^T) B^T`` of layers that share their input, with gradients for x, A and B alone.

    LoRA is that of Hu et al., 2021 (arXiv:2106.09685). Only ``x``, or what it is made of, and ``x A^T`` are kept for
    the backward pass. A and B may be float32 beside a base in bfloat16: products run in the base's dtype and gradients
    reach A and B in theirs, as autocast would have it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, recipe: Recipe | None, scalings: Sequence[float], *layers: Any
    ) -> tuple[torch.Tensor, ...]:
        """Compute the layers' outputs.

        Parameters
        ----------
        ctx
            Autograd's context.
        x : torch.Tensor
            Input, shape ``(..., in_features)``.
        recipe : Recipe or None
            How the input is computed anew; without one it is kept.
        scalings : sequence of float
            ``alpha / r`` of each layer, or what the LoRA variant makes of it.
        *layers : torch.Tensor or None
            Of each layer the frozen base's weight and bias, shapes ``(out_features, in_features)`` and
            ``(out_features,)`` or ``None``, and the adapter's A and B, ``(r, in_features)`` and ``(out_features, r)``.

        Returns
        -------
        tuple of torch.Tensor
            Shape ``(..., out_features)`` each.
        """
        flat = x.reshape(-1, x.shape[-1])
        weights, biases, downs, ups = (layers[part::4] for part in range(4))
        low = flat @ _stacked(downs, x.dtype).t()
        outputs = []
        for weight, bias, up, part, scaling in zip(weights, biases, ups, _cut(low, downs), scalings, strict=True):
            output = flat @ weight.t() if bias is None else torch.addmm(bias, flat, weight.t())
            outputs.append(output.addmm_(part, up.to(x.dtype).t(), alpha=scaling).view(*x.shape[:-1], -1))
        ctx.save_for_backward(low, *weights, *downs, *ups, *(recipe.tensors if recipe else (flat,)))
        ctx.scalings, ctx.shape, ctx.make = scalings, x.shape, recipe and recipe.make
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients for ``x``, and for A and B of each layer."""
        count, (low, *saved) = len(grads), ctx.saved_tensors
        weights, downs, ups = (saved[part * count : (part + 1) * count] for part in range(3))
        kept, x_grad, up_grads = saved[3 * count :], None, list[torch.Tensor]()
        flat = (ctx.make(*kept) if ctx.make else kept[0]).view(-1, ctx.shape[-1])
        low_grad = torch.empty_like(low)
        parts = zip(grads, weights, ups, _cut(low, downs), _cut(low_grad, downs), ctx.scalings, strict=True)
        for grad, weight, up, part, part_grad, scaling in parts:
            grad = grad.reshape(-1, grad.shape[-1])
            part_grad.copy_(grad @ up.to(grad.dtype)).mul_(scaling)
            up_grads.append((grad.t() @ part).mul_(scaling).to(up.dtype))
            if ctx.needs_input_grad[0]:
                x_grad = grad @ weight if x_grad is None else x_grad.addmm_(grad, weight)
        if x_grad is not None:
            x_grad = x_grad.addmm_(low_grad, _stacked(downs, low.dtype)).view(ctx.shape)
        down_grads = _cut((low_grad.t() @ flat).to(downs[0].dtype), downs, dim=0)
        of_layers = (one for pair in zip(down_grads, up_grads, strict=True) for one in (None, None, *pair))
        return x_grad, None, None, *of_layers


def _stacked(downs: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    return downs[0].to(dtype) if len(downs) == 1 else torch.cat([one.to(dtype) for one in downs])


def _cut(low: torch.Tensor, downs: Sequence[torch.Tensor], dim: int = 1) -> Sequence[torch.Tensor]:
    return low.split([one.shape[0] for one in downs], dim=dim)


class Normed(torch.autograd.Function):
    """RMSNorm with a frozen weight (Zhang and Sennrich, 2019, arXiv:1910.07467): keeps its input and one number a row.

    Gemma's multiplies by ``1 + weight`` and rounds at the end, Llama's rounds before it multiplies.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, gemma: bool) -> Any:
        """Compute the output, and the reciprocal root mean square of each row (float32)."""
        wide = x.float()
        inverse = (wide.square().mean(-1, keepdim=True) + eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        ctx.gemma = gemma
        ctx.mark_non_differentiable(inverse)
        return _weighted(wide * inverse, weight, x.dtype, gemma), inverse

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
        """Gradient for the input."""
        x, weight, inverse = ctx.saved_tensors
        grad = (grad.float() * (1 + weight.float())) if ctx.gemma else (grad * weight).float()
        unit = x.float() * inverse
        return grad.addcmul_(unit, (grad * unit).mean(-1, keepdim=True), value=-1).mul_(inverse).to(x.dtype), *[
            None
        ] * 3


def _normed(x: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor, gemma: bool) -> torch.Tensor:
    return _weighted(x.float() * inverse, weight, x.dtype, gemma)


def _weighted(unit: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype, gemma: bool) -> torch.Tensor:
    return unit.mul_(1 + weight.float()).to(dtype) if gemma else weight * unit.to(dtype)


class Gated(torch.autograd.Function):
    """``activation(gate) * up``, of which only gate and up are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, activation: nn.Module) -> torch.Tensor:
        """Compute the product; all shapes are equal."""
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return activation(gate) * up

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients for gate and up."""
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            gate = gate.detach().requires_grad_()
            active = ctx.activation(gate)
        (gate_grad,) = torch.autograd.grad(active, gate, grad * up)
        return gate_grad, grad * active.detach(), None


def fits(layer: Any) -> bool:
    """Whether a LoRA layer is plain enough for :class:`LoraProducts`; PEFT's own forward serves every other case."""
    return (
        simple(layer)
        and not layer.disable_adapters
        and isinstance(layer.lora_dropout[layer.active_adapters[0]], nn.Identity)
        and not layer.get_base_layer().weight.requires_grad
    )


def simple(layer: Any) -> bool:
    """Whether a layer is a linear one with one LoRA of the plain kind, which dropout may go before in training."""
    if type(layer) is not LoraLinear or layer.merged or len(layer.active_adapters) != 1:
        return False
    name = layer.active_adapters[0]
    return (
        name in layer.lora_A
        and name not in layer.lora_variant
        and layer.lora_B[name].bias is None
        and type(layer.get_base_layer()) is nn.Linear
        and not layer.fan_in_fan_out
    )


@contextmanager
def installed(model: nn.Module) -> Iterator[None]:
    """Run every layer that fits as one function while the context lasts; a compiler does the same in its own way."""
    known: dict[type, bool | None] = {}
    left = compiled.inside(model)
    with ExitStack() as stack:

        def install(layer: Any, forward: Callable[..., torch.Tensor] | None) -> None:
            if forward:
                layer.forward = forward
                stack.callback(layer.__dict__.pop, "forward")

        for layer in (one for one in model.modules() if one not in left):
            for names in SIBLINGS:
                siblings = [getattr(layer, name, None) for name in names]
                if all(map(fits, siblings)):
                    forwards, forget = _lora(siblings)
                    for sibling, forward in zip(siblings, forwards, strict=True):
                        install(sibling, forward)
                    stack.callback(layer.register_forward_hook(forget, always_call=True).remove)
            if fits(layer) and "forward" not in vars(layer):
                install(layer, *_lora([layer])[0])
            else:
                install(layer, _elementwise(layer, known))
        yield


def _elementwise(layer: Any, known: dict[type, bool | None]) -> Callable[..., torch.Tensor] | None:
    """A norm's or gated product's forward pass that keeps little; `known` holds what a class turned out to be."""
    kind = type(layer)
    if kind.__name__.endswith("RMSNorm") and hasattr(layer, "weight"):  # Gemma 4 has some without, of the same class
        if kind not in known:
            known[kind] = next((gemma for gemma in (False, True) if _normalises(layer, gemma)), None)
        return None if known[kind] is None else _rms_norm(layer, bool(known[kind]))
    if all(hasattr(layer, name) for name in GATED):
        if kind not in known:
            known[kind] = _gates(layer) or None
        return _gated(layer) if known[kind] else None
    return None


def _lora(layers: Sequence[Any]) -> tuple[list[Callable[..., torch.Tensor]], Callable[..., None]]:
    """Forward passes of layers that are given the same input one after the other, and what ends their turn.

    The first computes for all; what was not asked for by the end of the turn is forgotten.
    """
    scalings, tensors = [], []
    for layer in layers:
        name, base = layer.active_adapters[0], layer.get_base_layer()
        scalings.append(layer.scaling[name])
        tensors += [base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight]
    waiting: list[Any] = [None] * len(layers)  # input and output, until they are asked for

    def forward(x: torch.Tensor, *args: Any, place: int, **kwargs: Any) -> torch.Tensor:
        if layers[place].disable_adapters:  # since: some objectives compare a model with its base
            return LoraLinear.forward(layers[place], x, *args, **kwargs)
        if waiting[place] is None or waiting[place][0] is not x:
            outputs = LoraProducts.apply(x, getattr(x, "recipe", None), scalings, *tensors)
            waiting[:] = [(x, output) for output in outputs]
        (_, output), waiting[place] = waiting[place], None
        return output

    def forget(*called: Any) -> None:
        waiting[:] = [None] * len(layers)

    return [partial(forward, place=place) for place in range(len(layers))], forget


def _rms_norm(layer: Any, gemma: bool) -> Callable[..., torch.Tensor]:
    eps = getattr(layer, "variance_epsilon", getattr(layer, "eps", None))

    def forward(x: torch.Tensor) -> torch.Tensor:
        weight = layer.weight  # a method may put another in its place, and learn it
        if weight.requires_grad:
            return type(layer).forward(layer, x)
        output, inverse = Normed.apply(x, weight, eps, gemma)
        return anew(output, partial(_normed, gemma=gemma), x, weight, inverse)

    return forward


def _gated(layer: Any) -> Callable[..., torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        gate, up = layer.gate_proj(x), layer.up_proj(x)
        output = Gated.apply(gate, up, layer.act_fn)
        return layer.down_proj(anew(output, lambda gate, up: layer.act_fn(gate) * up, gate, up))

    return forward


@torch.no_grad()
def _normalises(layer: Any, gemma: bool) -> bool:
    """Whether a norm's own forward pass gives the same, on a few numbers."""
    weight = getattr(layer, "weight", None)
    if weight is None or weight.requires_grad or not (hasattr(layer, "variance_epsilon") or hasattr(layer, "eps")):
        return False
    x = torch.linspace(-3, 3, 2 * len(weight), dtype=weight.dtype, device=weight.device).view(1, 2, -1)
    return torch.equal(type(layer).forward(layer, x), _rms_norm(layer, gemma)(x))


@torch.no_grad()
def _gates(layer: Any) -> bool:
    """Whether a layer's own forward pass gives the same with simple functions in place of its weights."""
    parts = {"gate_proj": lambda x: 2 * x, "up_proj": lambda x: x + 1, "down_proj": lambda x: 3 * x}
    stand_in, x = SimpleNamespace(**parts, act_fn=layer.act_fn), torch.linspace(-3, 3, 16).view(1, 2, 8)
    try:
        return torch.equal(type(layer).forward(stand_in, x), _gated(stand_in)(x))
    except Exception:  # it computes with more than these
        return False

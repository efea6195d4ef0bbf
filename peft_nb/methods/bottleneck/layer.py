"""A frozen module with bottlenecks behind it or beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from peft_nb.methods.wrapping import Sized

if TYPE_CHECKING:
    from peft_nb.methods.bottleneck.config import BottleneckConfig

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class BottleneckLayer(Sized, nn.Module, BaseTunerLayer):
    """A frozen module and the bottlenecks of one or more adapters.

    Parameters
    ----------
    base_layer : torch.nn.Module
        The frozen module.
    adapter_name : str
        The first adapter.
    config : BottleneckConfig
        Its settings.
    """

    adapter_layer_names = ("bottleneck_norm", "bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_dropout", "bottleneck_act", "bottleneck_scaling")

    if TYPE_CHECKING:  # what PEFT adds is neither tensor nor module, as torch would have it

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_norm = nn.ModuleDict()
        self.bottleneck_dropout = nn.ModuleDict()
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_act: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
        self.bottleneck_scaling: dict[str, Any] = {}
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add an adapter that changes nothing yet.

        Its up projection is zero, as He et al. (2021, arXiv:2110.04366) start theirs; Houlsby et al. (2019) draw
        values so small that the layer is nearly the identity.

        Parameters
        ----------
        adapter_name : str
            The new adapter.
        config : BottleneckConfig
            Its settings.
        """
        hidden = width(last_linear(self.get_base_layer()))
        narrow = max(1, int(hidden / config.reduction_factor))
        self.bottleneck_norm[adapter_name] = nn.LayerNorm(hidden) if config.layer_norm else nn.Identity()
        self.bottleneck_dropout[adapter_name] = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.bottleneck_down[adapter_name] = down = nn.Linear(hidden, narrow)
        self.bottleneck_up[adapter_name] = up = nn.Linear(narrow, hidden)
        self.bottleneck_act[adapter_name] = ACTIVATIONS[config.non_linearity]
        self.bottleneck_scaling[adapter_name] = config.scaling
        for parameter in (down.bias, up.weight, up.bias):
            nn.init.zeros_(parameter)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def bottleneck(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """``W_up f(W_down LN(x))`` of one adapter, in the dtype of its weights.

        Parameters
        ----------
        name : str
            The adapter.
        x : torch.Tensor
            Hidden states, shape ``(..., hidden)``.

        Returns
        -------
        torch.Tensor
            Shape ``(..., hidden)``, not scaled.
        """
        down = self.bottleneck_down[name]
        x = self._cast_input_dtype(x, down.weight.dtype)
        x = self.bottleneck_dropout[name](self.bottleneck_norm[name](x))
        return self.bottleneck_up[name](self.bottleneck_act[name](down(x)))

    def _working(self) -> Iterator[str]:
        """Adapters that are active here."""
        return (name for name in self.active_adapters if name in self.bottleneck_down and not self.disable_adapters)

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> Any:
        """Of the linear layer that gives the width: a feed-forward module has no weight of its own."""
        return super()._get_base_layer_device_and_dtype(last_linear(base_layer))


class SerialBottleneck(BottleneckLayer):
    """``h + s W_up f(W_down h)`` behind a linear layer that puts out ``h``; several active adapters follow in turn."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the linear layer and what stands behind it."""
        h = self.base_layer(x)
        dtype = h.dtype
        for name in self._working():
            h = torch.add(h, self.bottleneck(name, h), alpha=self.bottleneck_scaling[name])
        return h.to(dtype)


class ParallelBottleneck(BottleneckLayer):
    """``F(x) + s W_up f(W_down x)`` beside a feed-forward ``F``; several active adapters add up."""

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Run the feed-forward and what stands beside it.

        Parameters
        ----------
        x : torch.Tensor
            What the feed-forward reads, shape ``(..., hidden)``.
        residual : torch.Tensor, optional
            Given to the second half of BERT's feed-forward, which adds it before a norm. It is what the first half
            has read, so adapters read it and go with it.
        """
        if residual is None:
            return self._beside(self.base_layer(x), x)
        return self.base_layer(x, self._beside(residual, residual))

    def _sizes(self) -> tuple[int, int]:
        """Of hidden states: what is wrapped is a whole feed-forward."""
        hidden = width(last_linear(self.get_base_layer()))
        return hidden, hidden

    def _beside(self, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        dtype = h.dtype
        for name in self._working():
            h = torch.add(h, self.bottleneck(name, x), alpha=self.bottleneck_scaling[name])
        return h.to(dtype)


def width(module: nn.Module | None) -> int:
    """How many features a linear layer puts out (transformers' ``Conv1D`` too); 0 for any other module."""
    return getattr(module, "out_features", getattr(module, "nf", 0))


def last_linear(module: nn.Module) -> nn.Module | None:
    """The layer whose output a module puts out: itself when it is linear, None when none is found in it."""
    return next((layer for layer in reversed(list(module.modules())) if width(layer)), None)

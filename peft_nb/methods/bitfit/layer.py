"""A layer whose output is shifted by a trained vector: what training its bias comes to, with the bias left alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn
from transformers.pytorch_utils import Conv1D

from peft_nb.errors import MethodError
from peft_nb.methods.bitfit.config import BitFitConfig
from peft_nb.methods.wrapping import Sized

LINEAR = (nn.Linear, Conv1D)  # also the 4-bit and 8-bit layers of bitsandbytes
BIASED = (*LINEAR, nn.LayerNorm)


class BitFitLayer(Sized, nn.Module, BaseTunerLayer):
    """``base(x) + b`` with a ``b`` for each adapter (Ben Zaken et al., 2021, arXiv:2106.10199).

    Parameters
    ----------
    base_layer : torch.nn.Module
        A linear layer, with or without a bias, or a layer norm with one.
    adapter_name : str
        The first adapter.
    config : BitFitConfig
        Its settings.
    """

    # "bias" in the name tells Trainer not to decay it, as it decays no bias.
    adapter_layer_names = ("bitfit_bias",)
    get_base_layer: Callable[[], Any]
    set_adapter: Callable[..., None]
    _move_adapter_to_device_of_base_layer: Callable[..., None]
    active_adapters: list[str]

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BitFitConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bitfit_bias = nn.ParameterDict()
        self.merged_adapters: list[str] = []
        self._unmerged: tuple[nn.Parameter, ...] = ()  # a tuple hides it from the module's own parameters
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BitFitConfig) -> None:
        """Add an adapter: zeros of the output's size in what the base computes in; PEFT casts them afterwards."""
        base = self.get_base_layer()
        shape: Any = self.out_features if base.bias is None else base.bias.shape
        self.bitfit_bias[adapter_name] = nn.Parameter(torch.zeros(shape))
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The base's output, shifted by the active adapters unless they are disabled or merged."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        output = self.base_layer(x, *args, **kwargs)
        if not self.disable_adapters and not self.merged:
            for name in self.active_adapters:
                if name in self.bitfit_bias:
                    output = output + self.bitfit_bias[name].to(output.dtype)
        return output

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Replace the base's bias by its sum with the adapters'; the old one may be shared and is not written to.

        Parameters
        ----------
        safe_merge : bool
            Whether sums that are not finite are refused.
        adapter_names : list of str, optional
            Which adapters; the active ones by default.

        Raises
        ------
        MethodError
            If the base layer has no bias.
        ValueError
            If ``safe_merge`` finds a sum that is not finite.
        """
        base = self.get_base_layer()
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.bitfit_bias:
                continue
            if base.bias is None:
                raise MethodError(unmergeable(1, "this layer"))
            merged = (base.bias.float() + self.bitfit_bias[name]).detach()
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
            self._unmerged = self._unmerged or (base.bias,)
            base.bias = nn.Parameter(merged.to(base.bias.dtype), requires_grad=False)
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Give the base its own bias back, to the last bit."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        (self.get_base_layer().bias,) = self._unmerged
        self._unmerged = ()
        self.merged_adapters.clear()

    def __repr__(self) -> str:
        return "bitfit." + super().__repr__()


def unmergeable(count: int, where: str) -> str:
    """Say why added biases stay in the adapter.

    Parameters
    ----------
    count : int
        How many were added.
    where : str
        The model or layer.

    Returns
    -------
    str
        One line.
    """
    return (
        f"bitfit: {count} biases were added to layers of {where} that have none, and a merged model has no place for "
        "them; save the adapter instead, or train lora, which merges"
    )

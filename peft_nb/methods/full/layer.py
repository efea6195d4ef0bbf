"""A module that computes with trained copies of its parameters in place of its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn
from torch.func import functional_call

from peft_nb.errors import MethodError
from peft_nb.methods.wrapping import Sized

Place = tuple["FullLayer", str]
"""Where a copy is: the layer that holds it, and its name there."""


class FullLayer(Sized, nn.Module, BaseTunerLayer):
    """Wraps any module that holds parameters; what is read from it (``weight``, ``padding_idx``) is the module's own.

    A weight that several modules share has one copy, held by the layer that took it first; the others know where it
    is. So it is one parameter to optimizers and in files, however the model is moved, copied or loaded.

    Parameters
    ----------
    base_layer : torch.nn.Module
        The module; its parameters are only read.

    Attributes
    ----------
    full_copies : torch.nn.ModuleDict
        The copies by adapter, each a ``ParameterDict``.
    full_ties : dict
        By adapter, the parameters whose copies are elsewhere.
    """

    adapter_layer_names = ("full_copies",)
    other_param_names = ("full_ties",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer: Any = base_layer
        self.full_copies: Any = nn.ModuleDict()
        self.full_ties: dict[str, dict[str, Place]] = {}
        self.merged_adapters: list[str] = []
        self._originals: dict[str, nn.Parameter] = {}
        self._merged: dict[str, nn.Parameter] = {}
        self.train(base_layer.training)

    def add(self, adapter: str, names: Iterable[str], places: dict[int, Place]) -> None:
        """Copy parameters of the module for an adapter.

        Parameters
        ----------
        adapter : str
            Name of the adapter.
        names : iterable of str
            Names of the parameters.
        places : dict
            Where the adapter's copies are so far, by the ``id`` of the base's parameter; what is new is entered.
        """
        own, ties = {}, {}
        for name in names:
            parameter = self.base_layer._parameters[name]
            if id(parameter) in places:
                ties[name] = places[id(parameter)]
            else:
                own[name] = nn.Parameter(parameter.detach().clone())
                places[id(parameter)] = self, name
        if own:
            self.full_copies[adapter] = nn.ParameterDict(own)
        if ties:
            self.full_ties[adapter] = ties

    def _places(self, adapter: str) -> dict[str, Place]:
        own = {name: (self, name) for name in self.full_copies[adapter]} if adapter in self.full_copies else {}
        return own | self.full_ties.get(adapter, {})

    def _copies(self) -> dict[str, torch.Tensor]:
        """What stands in for the module's own parameters now, in the dtype of the base."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or self.merged:
            return {}
        active = {adapter: places for adapter in self.active_adapters if (places := self._places(adapter))}
        _at_most_one(list(active))
        return {
            name: layer.full_copies[adapter][there].to(self.base_layer._parameters[name].dtype)
            for adapter, places in active.items()
            for name, (layer, there) in places.items()
        }

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module on the active adapter's copies, or as it is when there are none."""
        copies, own = self._copies(), vars(self.base_layer)
        if not copies:
            return self.base_layer(*args, **kwargs)
        hiding = {name: own.pop(name) for name in copies if name in own}  # while it runs FSDP has attributes there
        try:
            return functional_call(self.base_layer, copies, args, kwargs, tie_weights=False)
        finally:
            own.update(hiding)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Put an adapter's copies in the place of the module's own parameters, whose memory is left alone.

        Parameters
        ----------
        safe_merge : bool, default False
            Whether to refuse weights that are not finite.
        adapter_names : list of str, optional
            Which adapter; by default the active one.

        Raises
        ------
        MethodError
            If there are several, or one is merged already: one set of weights cannot be two.
        ValueError
            If ``safe_merge`` finds a weight that is not finite.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if self._places(name)]
        _at_most_one([*self.merged_adapters, *names])
        for adapter in names:
            for name, (layer, there) in self._places(adapter).items():
                merged = layer._as_merged(adapter, there)
                if safe_merge and not torch.isfinite(merged).all():
                    raise ValueError(f"NaNs detected in the merged weights. The adapter {adapter} seems to be broken")
                self._originals[name] = self.base_layer._parameters[name]
                self.base_layer._parameters[name] = merged
            self.merged_adapters.append(adapter)

    def _as_merged(self, adapter: str, name: str) -> nn.Parameter:
        """A copy as a parameter of the base, the same object for all modules that share it."""
        if name not in self._merged:
            original = self._originals.get(name, self.base_layer._parameters[name])
            values = self.full_copies[adapter][name].detach().to(original.dtype)
            self._merged[name] = nn.Parameter(values, requires_grad=False)
        return self._merged[name]

    def unmerge(self) -> None:
        """Give the module its own parameters back."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        self.base_layer._parameters.update(self._originals)
        self.merged_adapters.clear()
        self._originals.clear()
        self._merged.clear()

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """The module without its wrapper, and without those of the modules in it; parameters as of :meth:`merge`."""
        if merge:
            self.merge(safe_merge, adapter_names)

        def unwrap(module: nn.Module) -> None:
            for name, inner in list(module.named_children()):
                if isinstance(inner, FullLayer):
                    setattr(module, name, inner.unload_and_optionally_merge_module(merge, safe_merge, adapter_names))
                else:
                    unwrap(inner)

        unwrap(self.base_layer)
        return self.base_layer

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """PEFT's own would also round copies that were saved in float32 to the base's dtype."""
        if adapter_name in self.full_copies and not any(one.is_meta for one in self.full_copies[adapter_name].values()):
            self.full_copies[adapter_name].to(device or next(self.base_layer.parameters()).device)

    def _read(self, name: str) -> Any:
        copies = self._copies()
        return copies[name] if name in copies else getattr(self.base_layer, name)

    # PEFT's layers answer these two with the base's parameters, which is not what a model that reads them computes.
    weight = property(lambda self: self._read("weight"))
    bias = property(lambda self: self._read("bias"))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":  # not there yet
                raise
            return self._read(name)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Let ``tie_weights`` assign what is tied already; nothing else can be assigned to a wrapper."""
        if param is None or self._copies().get(name) is not param:
            raise MethodError(f"full: {name} of a trained {type(self.base_layer).__name__} cannot be replaced")


def _at_most_one(adapters: list[str]) -> None:
    if len(adapters) > 1:
        raise MethodError(f"full: one set of weights at a time, not {' and '.join(adapters)}; name one of them")

"""Wraps the parts of a model that are trained, and hands everything else to PEFT."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import torch
from accelerate import init_empty_weights
from peft.tuners.tuners_utils import BaseTuner, check_target_module_exists
from peft.utils import AuxiliaryTrainingWrapper, set_additional_trainable_modules
from torch import nn

from peft_nb.errors import MethodError
from peft_nb.methods.full.config import FullConfig
from peft_nb.methods.full.layer import FullLayer, Place
from peft_nb.methods.peft_registration import add_to_peft
from peft_nb.system import peft_private


class FullModel(BaseTuner):
    """A model whose modules compute with trained copies of their parameters; parameters as of PEFT's tuners."""

    prefix = "full_"
    tuner_layer_cls = FullLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Wrap what an adapter's config names, or add the adapter to it where it is wrapped already.

        PEFT's own passes over modules within modules that an earlier adapter has wrapped, and knows no ties.

        Parameters
        ----------
        model : torch.nn.Module
            The base.
        adapter_name : str
            Which of the configs.
        autocast_adapter_dtype : bool
            Not used: PEFT casts afterwards.
        low_cpu_mem_usage : bool
            Whether to leave the copies without memory, for weights that are about to be loaded.
        state_dict : dict, optional
            Not used: the config says it all.

        Raises
        ------
        MethodError
            If nothing is left to train, or the base is quantized.
        """
        config = self.peft_config[adapter_name]
        parts = trained(model, config)
        self._check_new_adapter_config(config)
        before = [(one, one.requires_grad) for one in model.parameters()] if len(self.peft_config) > 1 else []
        for name in reversed(parts):  # inner modules first, while their names still lead to them
            parent, target, target_name = peft_private.placed(model, name)
            self._create_and_replace(config, adapter_name, target, target_name, parent, current_key=name)
        places: dict[int, Place] = {}
        with init_empty_weights() if low_cpu_mem_usage else nullcontext():
            for name, parameters in parts.items():
                layer: Any = model.get_submodule(name)
                layer.add(adapter_name, parameters, places)
        self.targeted_module_names += [name for name in parts if name not in self.targeted_module_names]
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)
        self._mark_only_adapters_as_trainable(model)
        set_additional_trainable_modules(
            model=model,
            peft_config=config,
            model_config=self.get_model_config(self),
            adapter_name=adapter_name,
            activate_adapter=adapter_name in self.active_adapters,
        )
        for parameter, requires_grad in before:
            parameter.requires_grad = requires_grad

    def _create_and_replace(
        self,
        peft_config: FullConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if not isinstance(target, FullLayer):
            inner = parent.base_layer if isinstance(parent, FullLayer) else parent
            self._replace_module(inner, target_name, FullLayer(target), target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """PEFT's own expects every module to have a weight."""
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        """PEFT's own warns of tied weights, which stay tied here."""

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: FullConfig, adapter_name: str, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """PEFT may have saved embeddings of the base beside their copies; loading must never write into the base."""
        mapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        base = {
            f"{name}.base_layer.{own}"
            for name, layer in model.named_modules()
            if isinstance(layer, FullLayer)
            for own in layer.base_layer._parameters
        }
        return {name: tensor for name, tensor in mapped.items() if name not in base}


def trained(model: nn.Module, config: FullConfig) -> dict[str, list[str]]:
    """Which parameters of a model a config trains.

    Parameters
    ----------
    model : torch.nn.Module
        The base, wrapped or not.
    config : FullConfig
        The settings.

    Returns
    -------
    dict
        Names of modules, outer before inner ones, and for each the names of its parameters. Tied weights appear with
        every module that holds them.

    Raises
    ------
    MethodError
        If there are none, or they are quantized.
    """
    everything = config if config.target_modules else replace(config, target_modules=".*")
    chosen: set[nn.Parameter] = set()
    frozen: set[nn.Parameter] = set()
    holders = dict(_holders(model))
    for name, held in holders.items():
        found = [check_target_module_exists(everything, part) for part in _path(name)]
        if any(map(peft_private.excluded, found)):
            frozen.update(held.values())
        elif any(found):
            chosen.update(held.values())
    chosen -= frozen
    if not chosen:
        raise MethodError(
            f"target_modules: {config.target_modules!r} leaves nothing of {type(model).__name__} to train; "
            f"leave it out to train everything, or name modules such as {next(iter(holders), 'layers.0')}"
        )
    if not all(parameter.is_floating_point() for parameter in chosen):
        raise MethodError("quantization: full trains the weights themselves, which a quantized base has not; take none")
    parts = {name: [own for own, one in held.items() if one in chosen] for name, held in holders.items()}
    return {name: own for name, own in parts.items() if own}


def _holders(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, dict[str, nn.Parameter]]]:
    """Modules of the base with parameters of their own, by the names they have without wrappers."""
    for name, child in model.named_children():
        if isinstance(child, AuxiliaryTrainingWrapper):
            continue
        base = child.base_layer if isinstance(child, FullLayer) else child
        if own := dict(base.named_parameters(recurse=False, remove_duplicate=False)):
            yield prefix + name, own
        yield from _holders(base, f"{prefix}{name}.")


def _path(name: str) -> Iterator[str]:
    """A module's name and those of the modules it lies in."""
    names = name.split(".")
    return (".".join(names[: depth + 1]) for depth in range(len(names)))


add_to_peft("full", FullConfig, FullModel)

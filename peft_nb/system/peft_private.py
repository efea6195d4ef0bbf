"""What the code leans on of PEFT's private API, as read in the version below; a test fails when any of it moves.

What is used is used here alone. What tuners and layers of our own override stays with them and is only told here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

READ_IN = "0.21.2"

_TUNERS = "peft.tuners.tuners_utils"

# Each with the names of its parameters; None for what is not called.
API: dict[str, str | None] = {
    # Overridden, or called on a tuner or a layer of our own.
    f"{_TUNERS}.BaseTuner._check_merge_allowed": "self",
    f"{_TUNERS}.BaseTuner._check_new_adapter_config": "self, config",
    f"{_TUNERS}.BaseTuner._create_and_replace": (
        "self, peft_config, adapter_name, target, target_name, parent, current_key, parameter_name"
    ),
    f"{_TUNERS}.BaseTuner._mark_only_adapters_as_trainable": "self, model",
    f"{_TUNERS}.BaseTuner._prepare_adapter_config": "self, peft_config, model_config",
    f"{_TUNERS}.BaseTuner._prepare_model": "self, peft_config, model",
    f"{_TUNERS}.BaseTuner._remap_adapter_state_dict_for_load": "model, config, adapter_name, state_dict",
    f"{_TUNERS}.BaseTuner._replace_module": "self, parent, child_name, new_module, child",
    f"{_TUNERS}.BaseTuner._unload_and_optionally_merge": "self, merge, progressbar, safe_merge, adapter_names",
    f"{_TUNERS}.BaseTunerLayer._cast_input_dtype": "self, x, dtype",
    f"{_TUNERS}.BaseTunerLayer._get_base_layer_device_and_dtype": "self, base_layer",
    f"{_TUNERS}.BaseTunerLayer._move_adapter_to_device_of_base_layer": "self, adapter_name, device",
    # Used below.
    f"{_TUNERS}.BaseTunerLayer._active_adapter": None,
    f"{_TUNERS}._ExcludedModule": None,
    "peft.tuners._buffer_dict.BufferDict": None,
    "peft.tuners.lora.LoraModel._check_add_weighted_adapter": "self, adapters, combination_type, svd_rank",
    f"{_TUNERS}._maybe_include_all_linear_layers": "peft_config, model",
    "peft.utils.other._get_submodules": "model, key",
    "peft.utils.transformers_weight_conversion.convert_peft_adapter_state_dict_for_transformers": (
        "model, peft_config, adapter_state_dict, adapter_name"
    ),
}


def excluded(match: Any) -> bool:
    """Whether what ``check_target_module_exists`` gave means that a module is left out by name."""
    from peft.tuners.tuners_utils import _ExcludedModule

    return isinstance(match, _ExcludedModule)


def all_linear(config: Any, model: Any) -> set[str]:
    """Full names of the layers that ``all-linear`` means in a model."""
    from copy import copy

    from peft.tuners.tuners_utils import _maybe_include_all_linear_layers

    return set(_maybe_include_all_linear_layers(copy(config), model).target_modules)


def placed(model: Any, name: str) -> tuple[Any, Any, str]:
    """The parent of a module, the module and its name there."""
    from peft.utils.other import _get_submodules

    parent, target, own = _get_submodules(model, name)
    return parent, target, own


def converted(model: Any, saved: dict[str, Any], adapter: str) -> dict[str, Any]:
    """An adapter's file as PEFT renames it for a model whose layers have changed since it was written."""
    from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers

    return convert_peft_adapter_state_dict_for_transformers(
        model=model, peft_config=model.peft_config[adapter], adapter_state_dict=saved, adapter_name=adapter
    )


def saved_state(model: Any, adapter: str) -> dict[str, Any]:
    """What an adapter is saved as; of virtual tokens those that are held, not those that a network would write."""
    from peft import get_peft_model_state_dict

    config = model.peft_config[adapter]
    training, config.inference_mode = config.inference_mode, True
    try:
        return get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    finally:
        config.inference_mode = training


def activate(layer: Any, adapter: str) -> None:
    """All that ``set_adapter`` does to a frozen layer, in no time."""
    layer._active_adapter = [adapter]


def kept_by_adapter(layer: Any) -> Iterator[tuple[str, Any]]:
    """What a layer keeps by adapter: names and containers."""
    from peft.tuners._buffer_dict import BufferDict
    from torch.nn import ModuleDict, ParameterDict

    for name, entries in {**vars(layer), **layer._modules}.items():
        if isinstance(entries, dict | ModuleDict | ParameterDict | BufferDict):
            yield name, entries


@contextmanager
def combined_as_asked(tuner: Any, how: str) -> Iterator[None]:
    """Let ``add_weighted_adapter`` combine a single adapter as it is asked to, for which it would take linear."""
    check = tuner._check_add_weighted_adapter

    def asked(**options: Any) -> Sequence[Any]:
        return how, *check(**options)[1:]

    vars(tuner)["_check_add_weighted_adapter"] = asked
    try:
        yield
    finally:
        del vars(tuner)["_check_add_weighted_adapter"]

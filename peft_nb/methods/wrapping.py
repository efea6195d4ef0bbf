"""What our tuners that wrap modules in layers have in common."""

from __future__ import annotations

from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn


class WrappingTuner(BaseTuner):
    """A tuner that wraps modules in its ``tuner_layer_cls``, whose layers hold any number of adapters.

    Parameters are those of every tuner of PEFT: the model, the config and the adapter's name.
    """

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        return peft_config  # which modules are chosen depends on the model, not on its config

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, peft_config)
            return
        layer = self.layer_class(peft_config, target, current_key)(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def layer_class(self, config: PeftConfig, target: nn.Module, name: str) -> Any:
        """Choose the layer that wraps a module, given the module and its full name."""
        return self.tuner_layer_cls

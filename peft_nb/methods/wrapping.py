"""What our tuners that wrap modules in layers have in common."""

from __future__ import annotations

import math
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

# What kinds of layers call the sizes of what they take in and put out.
SIZES = (
    ("in_features", "out_features"),
    ("nx", "nf"),  # transformers' Conv1D
    ("in_channels", "out_channels"),
    ("num_embeddings", "embedding_dim"),
    ("embed_dim", "embed_dim"),  # attention
)


class Sized:
    """A layer of a tuner that tells the sizes of the layer it wraps, as PEFT's own layers do."""

    def _sizes(self: Any) -> tuple[int | None, int | None]:
        base = self.get_base_layer()
        names = next((names for names in SIZES if all(hasattr(base, name) for name in names)), None)
        if names:
            return getattr(base, names[0]), getattr(base, names[1])
        shape = getattr(base, "normalized_shape", None)  # a norm's
        return (math.prod(shape),) * 2 if shape else (None, None)

    @property
    def in_features(self) -> int | None:
        """Size of what it takes in; None where it has no such size."""
        return self._sizes()[0]

    @property
    def out_features(self) -> int | None:
        """Size of what it puts out; None where it has no such size."""
        return self._sizes()[1]


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

"""Bottleneck adapters in a model, as PEFT runs its tuners."""

from __future__ import annotations

from torch import nn

from peft_nb.errors import MethodError
from peft_nb.methods.bottleneck import placement
from peft_nb.methods.bottleneck.config import BottleneckConfig
from peft_nb.methods.bottleneck.layer import BottleneckLayer, ParallelBottleneck, SerialBottleneck, last_linear, width
from peft_nb.methods.bottleneck.placement import PLACEMENTS
from peft_nb.methods.peft_registration import add_to_peft
from peft_nb.methods.wrapping import WrappingTuner


class BottleneckModel(WrappingTuner):
    """A model with bottleneck adapters; made by ``peft.get_peft_model`` from a :class:`BottleneckConfig`."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer

    def _prepare_model(self, peft_config: BottleneckConfig, model: nn.Module) -> None:
        if peft_config.target_modules is None:
            names = (name for name, _ in model.named_modules())
            peft_config.target_modules = placement.find(peft_config.placement, names, type(model).__name__)

    def _check_new_adapter_config(self, config: BottleneckConfig) -> None:
        super()._check_new_adapter_config(config)
        if len({PLACEMENTS[one.placement].parallel for one in self.peft_config.values()}) > 1:
            # One would wrap modules in which the other sits, and an adapter saved so would not load alone.
            raise MethodError(
                f"placement: {config.placement} does not fit on a model that has adapters of another kind; "
                "parallel adapters and serial ones (houlsby, pfeiffer) each need a base of their own"
            )

    def layer_class(self, config: BottleneckConfig, target: nn.Module, name: str) -> type[BottleneckLayer]:
        """Serial or parallel, as the placement has it."""
        parallel = PLACEMENTS[config.placement].parallel
        if bool(width(target)) == parallel or last_linear(target) is None:
            wanted = "modules with linear layers in them, such as mlp" if parallel else "linear layers"
            raise MethodError(
                f"target_modules: {name} is a {type(target).__name__}; {config.placement} adapters attach to {wanted}"
            )
        return ParallelBottleneck if parallel else SerialBottleneck

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        if isinstance(child, BottleneckLayer):  # unloading: PEFT would look for a weight, which a feed-forward has not
            setattr(parent, child_name, new_module)
        else:
            super()._replace_module(parent, child_name, new_module, child)

    def _check_merge_allowed(self) -> None:
        raise MethodError(
            "bottleneck adapters cannot be merged: what is not linear does not fold into the base's weights; "
            "save the adapter and load it beside its base"
        )


add_to_peft("bottleneck", BottleneckConfig, BottleneckModel)

"""BitFit as a tuner of PEFT: chooses the layers, wraps them, and merges where the base has biases of its own."""

from __future__ import annotations

from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from peft_nb.errors import MethodError
from peft_nb.methods.bitfit.config import BitFitConfig
from peft_nb.methods.bitfit.layer import BIASED, LINEAR, BitFitLayer, unmergeable
from peft_nb.methods.peft_registration import add_to_peft
from peft_nb.methods.routers import routers
from peft_nb.methods.wrapping import WrappingTuner

# What lies below these is theirs; the projections of MultiheadAttention are read, never called.
CLOSED = (BaseTunerLayer, AuxiliaryTrainingWrapper, nn.MultiheadAttention)


class BitFitModel(WrappingTuner):
    """A model whose biases are trained (Ben Zaken et al., 2021, arXiv:2106.10199).

    Parameters are those of every tuner of PEFT: the model, the config and the adapter's name.

    Raises
    ------
    MethodError
        If ``target_modules`` leaves no layer to train; the model is as it was.
    """

    prefix = "bitfit_"
    tuner_layer_cls = BitFitLayer

    def _prepare_model(self, peft_config: BitFitConfig, model: nn.Module) -> None:
        wanted = peft_config.target_modules
        peft_config.target_modules = ".*"
        left = routers(model) if wanted is None else ()
        able = {name: base for name, base in _able(model).items() if check_target_module_exists(peft_config, name)}
        able = {name: base for name, base in able.items() if name not in left}
        biased = {name for name, base in able.items() if base.bias is not None}
        if peft_config.add == "all" or not biased:
            biased |= {name for name, base in able.items() if isinstance(base, LINEAR)}
        peft_config.target_modules = ".*" if wanted is None else wanted
        chosen = [name for name in able if name in biased and check_target_module_exists(peft_config, name)]
        peft_config.target_modules = chosen or wanted
        if not chosen:
            name = type(model).__name__
            if wanted is None:
                raise MethodError(f"bitfit: no layer of {name} could carry a bias; choose another method")
            raise MethodError(
                f"target_modules: {wanted!r} fits no bias of {name}; leave it out for all, or take 'add: all' to "
                "add biases where layers have none"
            )

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge as every tuner of PEFT does, or refuse before anything has changed."""
        self._refuse_added(adapter_names)
        super().merge_adapter(adapter_names=adapter_names, safe_merge=safe_merge)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        if merge:
            self._refuse_added(adapter_names)
        return super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)

    def _refuse_added(self, adapter_names: list[str] | None) -> None:
        names = set(adapter_names or self.active_adapters)
        layers = [one for one in self.model.modules() if isinstance(one, BitFitLayer) and names & {*one.bitfit_bias}]
        if added := sum(one.bias is None for one in layers):
            raise MethodError(unmergeable(added, type(self.model).__name__))


def _able(model: nn.Module) -> dict[str, nn.Module]:
    """Layers that have a bias or could carry one, by their names; also those that another adapter has wrapped."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    found: dict[str, nn.Module] = {}
    closed = ""
    for name, module in model.named_modules():
        if closed and name.startswith(closed):
            continue
        if isinstance(module, CLOSED):
            closed = f"{name}."
        base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if isinstance(base, BIASED) and base is not head:
            found[name] = base
    return found


add_to_peft("bitfit", BitFitConfig, BitFitModel)

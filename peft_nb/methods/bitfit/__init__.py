"""BitFit: only the biases are trained; a model without any gets biases that start at zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft_nb.methods.config_source import ConfigClass
from peft_nb.methods.registry import Method, register

if TYPE_CHECKING:
    from peft import PeftModel


config_class = ConfigClass("BitFitConfig", "peft_nb.methods.bitfit.model")
"""Imports the config and makes PEFT know the tuner."""


def describe(model: PeftModel, adapter: str = "default") -> str:
    """Say which biases an adapter trains.

    Parameters
    ----------
    model : peft.PeftModel
        A model with a BitFit adapter.
    adapter : str
        Its name.

    Returns
    -------
    str
        One line, such as ``bitfit: 210 zero-initialised biases were added to the linear layers of LlamaForCausalLM,
        which had none``.
    """
    from peft_nb.methods.bitfit.layer import BitFitLayer

    layers = [one for one in model.modules() if isinstance(one, BitFitLayer) and adapter in one.bitfit_bias]
    own, name = sum(one.bias is not None for one in layers), type(model.get_base_model()).__name__
    added = len(layers) - own
    if not own:
        return f"bitfit: {added} zero-initialised biases were added to the linear layers of {name}, which had none"
    rest = f", and {added} zero-initialised ones were added to linear layers that had none" if added else ""
    return f"bitfit: {own} trainable biases in {name}{rest}"


register(
    Method(
        name="bitfit",
        help="Trains only the biases; a model without any gets biases that start at zero.",
        when="small shifts in style or domain, and the smallest adapter",
        source="Ben Zaken et al., 2021, arXiv:2106.10199",
        config_class=config_class,
        fields={"target_modules": "target_modules"},
        defaults={"learning_rate": 1e-3},  # within the paper's search, section 4
        quantizations=("none", "4bit", "8bit"),
        note=describe,
    )
)

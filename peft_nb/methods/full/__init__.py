"""Full fine-tuning: every weight of the base is trained, the yardstick for all other methods.

The package is a tuner like PEFT's own (config, layer, model): the base keeps its weights and each wrapped module
computes with a trained copy of them, so that what is trained is saved, loaded, switched and disabled as any adapter.
"""

from __future__ import annotations

from peft_nb.methods.config_source import ConfigClass
from peft_nb.methods.registry import Method, register

config_class = ConfigClass("FullConfig", "peft_nb.methods.full.model")
"""Imports the config and makes PEFT know the tuner."""


register(
    Method(
        name="full",
        help="Every weight, on a float32 copy of the base; the reference.",
        when="a reference for what the other methods lose, on a small base",
        source="Howard and Ruder, 2018, arXiv:1801.06146",
        config_class=config_class,
        fields={"target_modules": "target_modules"},
        rows=1000,  # LIMA's number: Zhou et al., 2023, arXiv:2305.11206
        defaults={"learning_rate": 2e-5},  # usual for fine-tuning whole models, as in Devlin et al., 2018
    )
)

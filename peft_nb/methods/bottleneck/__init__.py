"""Bottleneck adapters: small non-linear layers behind or beside the frozen sublayers.

The package is a tuner like PEFT's own (config, layer, model), so that adapters are saved, loaded, switched and disabled
as any other.
"""

from __future__ import annotations

from peft_nb.methods.config_source import ConfigClass
from peft_nb.methods.registry import Method, register

config_class = ConfigClass("BottleneckConfig", "peft_nb.methods.bottleneck.model")
"""Imports the config and makes PEFT know the tuner."""


register(
    Method(
        name="bottleneck",
        help="Small non-linear layers behind each feed-forward or attention; learns much, cannot be merged.",
        when="one adapter per language or domain, where merging is not needed",
        source="Houlsby et al., 2019, arXiv:1902.00751; Pfeiffer et al., 2020, arXiv:2005.00247; "
        "He et al., 2021, arXiv:2110.04366",
        config_class=config_class,
        fields={"dropout": "dropout", "target_modules": "target_modules"},
        defaults={"learning_rate": 1e-3},  # AdapterHub's advice: about 1e-4 times ten on small data
        quantizations=("none", "4bit", "8bit"),
        mergeable=False,
    )
)

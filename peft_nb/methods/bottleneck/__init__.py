"""Bottleneck adapters: small non-linear layers behind or beside the frozen sublayers.

The package is a tuner like PEFT's own (config, layer, model), so that adapters are saved, loaded, switched and disabled
as any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft_nb.methods.registry import Method, register

if TYPE_CHECKING:
    from peft_nb.methods.bottleneck.config import BottleneckConfig


def config_class() -> type[BottleneckConfig]:
    """Import the config and make PEFT know the tuner, in this process and once."""
    import peft_nb.methods.bottleneck.model  # noqa: F401
    from peft_nb.methods.bottleneck.config import BottleneckConfig

    return BottleneckConfig


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

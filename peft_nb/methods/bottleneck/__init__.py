"""Bottleneck adapters: small non-linear layers behind or beside the frozen sublayers.

The package is a tuner of PEFT's making (config, layer, model), so adapters are saved, loaded, switched and disabled
as any other. PEFT has to be told of it once in a process: making a config does, and :func:`register_with_peft` does
before an adapter is loaded.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from peft_nb.methods import Method, register
from peft_nb.spec import RunSpec

if TYPE_CHECKING:
    from peft_nb.methods.bottleneck.config import BottleneckConfig

_REGISTERING = threading.RLock()


def register_with_peft() -> None:
    """Make ``peft`` know this tuner, so that its adapters load with ``PeftModel.from_pretrained``; once is enough."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType, register_peft_method

    from peft_nb.methods.bottleneck.config import BottleneckConfig
    from peft_nb.methods.bottleneck.model import BottleneckModel

    with _REGISTERING:
        if "BOTTLENECK" in PEFT_TYPE_TO_CONFIG_MAPPING:
            return
        # PEFT takes only types that are members of this enum, and an enum is closed once its class is made.
        member = str.__new__(PeftType, "BOTTLENECK")
        member._name_ = member._value_ = "BOTTLENECK"
        PeftType.BOTTLENECK = member  # before the map knows it: members cannot be reassigned
        PeftType._member_names_.append("BOTTLENECK")
        PeftType._member_map_["BOTTLENECK"] = PeftType._value2member_map_["BOTTLENECK"] = member
        register_peft_method(name="bottleneck", config_cls=BottleneckConfig, model_cls=BottleneckModel)


def config(spec: RunSpec) -> BottleneckConfig:
    """PEFT's config for a spec: where and how wide come from its options, dropout and targets from its fields."""
    from peft import TaskType

    from peft_nb.methods.bottleneck.config import BottleneckConfig

    targets = spec.target_modules
    if not isinstance(targets, str):
        targets = list(targets)
    return BottleneckConfig(
        task_type=TaskType.CAUSAL_LM,
        dropout=spec.dropout,
        target_modules=None if targets == "all-linear" else targets,  # the field's default; the placement knows better
        **getattr(spec, "method_options", {}),
    )


register(
    Method(
        name="bottleneck",
        help="Small non-linear layers behind each feed-forward or attention; learns much, cannot be merged.",
        source="Houlsby et al., 2019, arXiv:1902.00751; Pfeiffer et al., 2020, arXiv:2005.00247; "
        "He et al., 2021, arXiv:2110.04366",
        config=config,
        quantizations=("none", "4bit", "8bit"),
        padding_free=True,
        mergeable=False,
    )
)

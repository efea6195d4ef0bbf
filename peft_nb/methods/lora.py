"""LoRA and QLoRA: low-rank updates beside the frozen linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft_nb.methods import Method, register
from peft_nb.spec import RunSpec

if TYPE_CHECKING:
    from peft import LoraConfig


def config(spec: RunSpec) -> LoraConfig:
    """PEFT's config for plain LoRA."""
    from peft import LoraConfig, TaskType

    targets = spec.target_modules
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=spec.r,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )


register(
    Method(
        name="lora",
        help="Low-rank updates beside every linear layer; the safe first choice.",
        source="Hu et al., 2021, arXiv:2106.09685",
        config=config,
        quantizations=("none", "4bit", "8bit"),
        padding_free=True,
        mergeable=True,
    )
)

register(
    Method(
        name="qlora",
        help="LoRA over a base held in 4 bits (NF4, double quantization) or 8; for models that hardly fit.",
        source="Dettmers et al., 2023, arXiv:2305.14314",
        config=config,
        quantizations=("4bit", "8bit"),
        padding_free=True,
        mergeable=True,
    )
)

"""Methods that scale what flows through the model: IA3 and the weights of its norms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from peft_nb.methods.config_source import ConfigClass
from peft_nb.methods.registry import Method, register
from peft_nb.training.hooks import Hooks

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from peft_nb.spec import RunSpec


class Rounded(Hooks):
    """Norms in float32 on a base in bfloat16: what they give goes on in the base's dtype, as its own norms give it."""

    def begin(self, model: PeftModel, batches: Iterable[dict[str, Any]]) -> None:
        """Have every trained norm round what it gives."""
        from peft.tuners.ln_tuning.layer import LNTuningLayer

        for module in model.modules():
            if isinstance(module, LNTuningLayer):
                module.register_forward_hook(_as_given)


def _as_given(module: torch.nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    return output.to(given[0].dtype)


def _layers(spec: RunSpec, model_config: Any, steps: int) -> dict[str, Any]:
    """Keys, values and the inputs of the feed-forward layers by their usual names, where PEFT knows no family."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as KNOWN

    if spec.target_modules is not None or model_config.model_type in KNOWN:
        return {}
    inner = r"fc2|pwconv2|(?<!attention\.)output\.dense"
    return {"target_modules": rf".*\.(k_proj|v_proj|key|value|{inner})", "feedforward_modules": rf".*\.({inner})"}


register(
    Method(
        name="ia3",
        help="Scales keys, values and the inputs of the feed-forward layers: a few thousand trainable parameters.",
        when="many tasks on one base, each with few rows",
        source="Liu et al., 2022, arXiv:2205.05638",
        config_class=ConfigClass("IA3Config"),
        fields={"target_modules": "target_modules"},
        rows=20,  # what RAFT gives, on which the paper measures
        defaults={"learning_rate": 3e-3},  # section 3.3 of the paper
        fitted=_layers,
        quantizations=("none", "4bit", "8bit"),
    )
)
register(
    Method(
        name="ln-tuning",
        help="Trains only the weights of the normalization layers.",
        when="the smallest change with an effect: style and tone",
        source="Zhao et al., 2023, arXiv:2312.11420",
        config_class=ConfigClass("LNTuningConfig"),
        fields={"target_modules": "target_modules"},
        # By the names of norms everywhere: PEFT knows them for some families alone.
        defaults={"target_modules": r".*(norm|LayerNorm|ln_\w+)", "learning_rate": 1e-3},
        quantizations=("none", "4bit", "8bit"),
        hooks=lambda spec: Rounded(),
    )
)

"""A LoRA on a pipeline as diffusers keeps it: one file that ``pipe.load_lora_weights`` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_nb.errors import MethodError
from peft_nb.models.diffusion import Diffusion

FILE = "pytorch_lora_weights.safetensors"
INSIDE = "base_model.model."
TOLD = ("r", "lora_alpha", "lora_dropout", "use_dora", "use_rslora", "rank_pattern", "alpha_pattern")


def require(config: Any, method: str) -> None:
    """Refuse an adapter that diffusers does not load, given PEFT's config of it, as a MethodError."""
    if config.peft_type != "LORA":
        raise MethodError(f"method: {method}: pipelines of diffusers take adapters of LoRA alone; choose lora or dora")


@dataclass(frozen=True)
class LoraFile:
    """The adapter of a pipeline, to be written beside PEFT's own files.

    Attributes
    ----------
    model : peft.PeftModel
        A :class:`.diffusion.Diffusion` with its adapter.
    """

    model: Any

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the file, with the settings of each part in its header."""
        from peft import get_peft_model_state_dict

        base: Diffusion = self.model.get_base_model()
        config = self.model.peft_config[self.model.active_adapter].to_dict()
        weights = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        given: dict[str, Any] = {}
        inside = {base.family.part: "denoiser.0.", **{name: f"{name}." for name in base.text_encoders}}
        for part, place in inside.items():
            start = INSIDE + place
            own = {key.removeprefix(start): one.contiguous() for key, one in weights.items() if key.startswith(start)}
            if own:
                layers = sorted({key.partition(".lora_")[0] for key in own})
                told = {name: config[name] for name in TOLD if config.get(name) is not None}
                given[f"{part}_lora_layers"] = own
                given[f"{part}_lora_adapter_metadata"] = {**told, "target_modules": layers}
        base.pipeline.save_lora_weights(folder, weight_name=FILE, **given)

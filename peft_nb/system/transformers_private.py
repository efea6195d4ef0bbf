"""What the code leans on of transformers' private API, as read in the version below; a test fails when any of it moves.

What is used is used here alone. What our Trainer and our models override stays with them and is only told here.
"""

from __future__ import annotations

from typing import Any

READ_IN = "5.23.0"

_TRAINER = "transformers.Trainer"
_MODEL = "transformers.PreTrainedModel"

# Each with the names of its parameters; None for what is not called.
API: dict[str, str | None] = {
    # Overridden; Trainer hands these their arguments by position.
    f"{_TRAINER}._get_grad_norm": "self, model, grad_norm",
    f"{_TRAINER}._get_num_items_in_batch": "self, batch_samples, device",
    f"{_TRAINER}._load_from_checkpoint": "self, resume_from_checkpoint, model",
    f"{_TRAINER}._load_optimizer_and_scheduler": "self, checkpoint",
    f"{_TRAINER}._load_rng_state": "self, checkpoint",
    f"{_TRAINER}._save": "self, output_dir, state_dict",
    f"{_TRAINER}._save_checkpoint": "self, model, trial",
    f"{_TRAINER}._save_optimizer_and_scheduler": "self, output_dir",
    f"{_TRAINER}._save_rng_state": "self, output_dir",
    f"{_MODEL}._supports_attention_backend": None,
    f"{_MODEL}._supports_flash_attn": None,
    f"{_MODEL}._supports_flex_attn": None,
    f"{_MODEL}._supports_sdpa": None,
    # Used below.
    f"{_MODEL}._init_weights": "self, module",
    "transformers.PreTrainedConfig._attn_implementation": None,
    "transformers.modeling_gguf_pytorch_utils.tqdm": None,
    "transformers.trainer.set_seed": None,
}


def initialize(model: Any, part: Any) -> None:
    """Draw the weights of a part of a model as transformers draws those of the whole."""
    part.apply(model._init_weights)


def attention(model: Any) -> str:
    """The name of a model's attention, as ``set_attn_implementation`` takes it."""
    name: str = model.config._attn_implementation
    return name


def unseeded() -> Any:
    """Let a Trainer be made without seeding the generators of the process, while it is entered."""
    from unittest.mock import patch

    from transformers import trainer

    return patch.object(trainer, "set_seed", lambda seed: None)


def gguf_progress(shown: Any) -> Any:
    """Give what has a loader of GGUF files show its tensors by another function than tqdm, while it is entered."""
    from unittest.mock import patch

    from transformers import modeling_gguf_pytorch_utils as loader

    return patch.object(loader, "tqdm", shown, create=True)

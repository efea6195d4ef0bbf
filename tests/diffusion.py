"""Pipelines of diffusers for tests, of random weights and so small that a run on them takes a second or two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789,.'-"
WIDTH, LENGTH = 16, 16  # of the text encoder, and tokens of a prompt


def pipeline(path: Path, kind: str = "sd", *, latents: bool = False, **scheduler: Any) -> Path:
    """Save a pipeline that draws 8 × 8 pixels in grey or, with an autoencoder, 16 × 16 in colour.

    Parameters
    ----------
    path : Path
        Where.
    kind : {"sd", "sdxl", "sd3"}
        Whose make: a UNet, one that is told sizes, or a transformer that learns a flow.
    latents : bool
        Whether there is an autoencoder.
    **scheduler
        Options of its scheduler.
    """
    import diffusers
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        channels = 4 if latents else 1
        parts: dict[str, Any] = {"vae": _autoencoder(0.1 if kind == "sd3" else None) if latents else None}
        if kind == "sd3":
            parts |= _flow(channels, scheduler)
            made = diffusers.StableDiffusion3Pipeline(**parts)
        else:
            parts |= _unet(channels, kind == "sdxl", scheduler)
            name = "StableDiffusionXLPipeline" if kind == "sdxl" else "StableDiffusionPipeline"
            made = getattr(diffusers, name)(**parts)
        for part in made.components.values():
            if isinstance(part, torch.nn.Module):  # what begins as zero would never be seen to be adapted
                for one in part.parameters():
                    if not one.any():
                        torch.nn.init.normal_(one, std=0.1)
    made.save_pretrained(path)
    return path


def tokenizer() -> Any:
    """A tokenizer of single characters."""
    from transformers import CLIPTokenizer

    tokens = [*CHARACTERS, *(f"{one}</w>" for one in CHARACTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: id for id, token in enumerate(tokens)}, merges=[], model_max_length=LENGTH)


def text_encoder(width: int = WIDTH, projected: bool = False, layers: int = 1) -> Any:
    """What reads the prompts."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    words = 2 * len(CHARACTERS) + 2
    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def unet(channels: int, cross: int, widths: tuple[int, ...] = (16, 32), side: int = 8, **more: Any) -> Any:
    """A UNet of two stages."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=widths,
        layers_per_block=1,
        cross_attention_dim=cross,
        attention_head_dim=8,
        norm_num_groups=8,
        **more,
    )


def _unet(channels: int, sdxl: bool, options: dict[str, Any]) -> dict[str, Any]:
    from diffusers import DDIMScheduler

    schedule = {"beta_schedule": "scaled_linear", "clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}
    parts = {
        "scheduler": DDIMScheduler(**{**schedule, **options}),
        "text_encoder": text_encoder(),
        "tokenizer": tokenizer(),
    }
    if not sdxl:
        more = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return {**parts, **more, "unet": unet(channels, WIDTH)}
    told = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    made = unet(channels, 2 * WIDTH, **told, projection_class_embeddings_input_dim=WIDTH + 6 * 8)
    parts |= {"text_encoder": text_encoder(layers=2), "text_encoder_2": text_encoder(projected=True, layers=2)}
    return {**parts, "tokenizer_2": tokenizer(), "unet": made}


def _flow(channels: int, options: dict[str, Any]) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=channels,
        out_channels=channels,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
    )
    readers = {f"text_encoder{part}": text_encoder(projected=True, layers=2) for part in ("", "_2")}
    writers = {f"tokenizer{part}": tokenizer() for part in ("", "_2")}
    scheduler = FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **options})
    absent = {"text_encoder_3": None, "tokenizer_3": None}
    return {**readers, **writers, **absent, "transformer": transformer, "scheduler": scheduler}


def _autoencoder(shift: float | None) -> Any:
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    more = {"latent_channels": 4, "norm_num_groups": 4, "sample_size": 16, "shift_factor": shift}
    return AutoencoderKL(**blocks, block_out_channels=(8, 8), **more)

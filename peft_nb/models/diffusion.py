"""A diffusers pipeline as one model: its denoiser is adapted, what reads prompts and shrinks images stays as it is.

The pipeline's parts lie beside the tree of the model, but for the denoiser and a text encoder that is trained too.
The pipeline holds the same modules, so that it draws with the adapter as soon as there is one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from peft_nb.errors import ModelError
from peft_nb.models.hub import INDEX
from peft_nb.models.quiet import first_line

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
EXTRA = "pip install 'peft_nb[diffusion]'"
LATENT_SHARE = 8  # by which diffusers' pipelines divide sizes that have no autoencoder to ask

Conditions = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Family:
    """How the pipelines of one kind call their denoiser.

    Attributes
    ----------
    part : {"unet", "transformer"}
        What the pipeline calls its denoiser.
    encode : callable
        From the pipeline and prompts to what the denoiser takes of them, a row a prompt.
    given : callable
        From these rows, the pipeline and the image's pixels to the denoiser's keywords.
    """

    part: str
    encode: Callable[[Any, list[str]], Conditions]
    given: Callable[[Conditions, Any, tuple[int, int]], dict[str, Any]]


def _stable_diffusion(pipe: Any, prompts: list[str]) -> Conditions:
    return {"encoder_hidden_states": pipe.encode_prompt(prompts, pipe.device, 1, False)[0]}


def _pooled(pipe: Any, prompts: list[str], name: str, **more: Any) -> Conditions:
    hidden, _, pooled, _ = pipe.encode_prompt(
        prompts, device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False, **more
    )
    return {"encoder_hidden_states": hidden, name: pooled}


def _sdxl(rows: Conditions, pipe: Any, pixels: tuple[int, int]) -> dict[str, Any]:
    """With the sizes that SDXL is told of every image: as it was, where it is cropped, as it is wanted."""
    pooled = rows["text_embeds"]
    times = pooled.new_tensor([*pixels, 0, 0, *pixels]).expand(len(pooled), -1)
    added = {"text_embeds": pooled, "time_ids": times}
    return {"encoder_hidden_states": rows["encoder_hidden_states"], "added_cond_kwargs": added}


FAMILIES = {
    "StableDiffusionPipeline": Family("unet", _stable_diffusion, lambda rows, pipe, pixels: dict(rows)),
    "StableDiffusionXLPipeline": Family("unet", partial(_pooled, name="text_embeds"), _sdxl),
    "StableDiffusion3Pipeline": Family(
        "transformer",
        partial(_pooled, name="pooled_projections", prompt_2=None, prompt_3=None),
        lambda rows, pipe, pixels: dict(rows),
    ),
}
"""The pipelines that can be trained, by the names of their classes in diffusers."""


class DiffusionConfig(PreTrainedConfig):
    """What a pipeline is made of, with the sizes that tell what a step keeps in memory.

    The denoiser counts as a single layer whose width stands for all that its blocks keep of a patch of 2 × 2 latent
    pixels: 12 times `hidden_size` and 5 times `intermediate_size` numbers.
    """

    model_type = "diffusion"


class Diffusion(PreTrainedModel):
    """The trainable part of a pipeline.

    Parameters
    ----------
    config : DiffusionConfig
        Of the pipeline.
    pipeline : diffusers.DiffusionPipeline
        Whose denoiser becomes the single entry of ``denoiser``.

    Attributes
    ----------
    family : Family
        How its denoiser is called.
    """

    config_class = DiffusionConfig
    supports_gradient_checkpointing = True

    def __init__(self, config: DiffusionConfig, pipeline: Any) -> None:
        super().__init__(config)
        self.pipeline = pipeline
        self.family = FAMILIES[type(pipeline).__name__]
        # As a list of blocks, the denoiser is what one layer is elsewhere: benchmarked alone.
        self.denoiser = torch.nn.ModuleList([getattr(pipeline, self.family.part)])

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, **given: Any) -> torch.Tensor:
        """What the denoiser predicts of noisy latents, shape ``(images, channels, height, width)`` as they are."""
        predicted: torch.Tensor = self.network(noisy, timestep=timesteps, **given, return_dict=False)[0]
        return predicted

    @property
    def network(self) -> Any:
        """The denoiser itself."""
        return self.denoiser[0]

    @property
    def text_encoders(self) -> dict[str, Any]:
        """What reads prompts, by its name in the pipeline."""
        parts = self.pipeline.components
        return {name: part for name, part in parts.items() if name.startswith("text_encoder") and part is not None}

    @property
    def beside(self) -> int:
        """Numbers of the parts of the pipeline that are not in this tree."""
        own = {id(one) for one in self.parameters()}
        parts = (one for one in self.pipeline.components.values() if isinstance(one, torch.nn.Module))
        return sum(one.numel() for part in parts for one in part.parameters() if id(one) not in own)

    @property
    def shrinks(self) -> int:
        """How many pixels of an image's side are one of its latents'; 1 without an autoencoder."""
        return int(self.pipeline.vae_scale_factor) if self.pipeline.vae is not None else 1

    def get_input_embeddings(self) -> Any:
        """None: it reads no tokens itself."""
        return None

    def get_output_embeddings(self) -> Any:
        """None: it writes none."""
        return None

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Recompute the denoiser's blocks in the backward pass."""
        how = partial(torch.utils.checkpoint.checkpoint, **(gradient_checkpointing_kwargs or {}))
        self.network.enable_gradient_checkpointing(how)

    def train_text_encoders(self) -> None:
        """Take the text encoders into the tree, so that adapters reach them."""
        for name, part in self.text_encoders.items():
            setattr(self, name, part)

    # ---- prompts and images

    def conditions(self, prompts: Sequence[str]) -> Conditions:
        """What the denoiser takes of prompts, a row each."""
        return self.family.encode(self.pipeline, list(prompts))

    def given(self, rows: Conditions, pixels: tuple[int, int]) -> dict[str, Any]:
        """The denoiser's keywords for images of some height and width."""
        return self.family.given(rows, self.pipeline, pixels)

    @torch.no_grad()
    def encoded(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latents of images, as the denoiser is to see them.

        Parameters
        ----------
        images : torch.Tensor
            Shape ``(images, 3, height, width)``, from -1 to 1.

        Returns
        -------
        tuple of torch.Tensor
            Both of the shape ``(images, channels, …)``; without an autoencoder the image itself, and zero.
        """
        vae = self.pipeline.vae
        if vae is None:
            channels = self.network.config.in_channels
            images = images.mean(1, keepdim=True) if channels == 1 else images
            return images, torch.zeros_like(images)
        found = vae.encode(images.to(vae.device, vae.dtype)).latent_dist
        scale, shift = vae.config.scaling_factor, getattr(vae.config, "shift_factor", None) or 0.0
        return (found.mean.float() - shift) * scale, found.std.float() * scale

    @torch.no_grad()
    def drawn(
        self, prompts: Sequence[str], seeds: Sequence[int], size: int, steps: int, guidance: float | None
    ) -> torch.Tensor:
        """Draw an image to each prompt.

        Parameters
        ----------
        prompts, seeds : sequence
            A text, and where its noise begins, for each image.
        size : int
            Pixels of the side.
        steps : int
            Of the pipeline's own scheduler.
        guidance : float or None
            Classifier-free guidance; None takes the pipeline's default.

        Returns
        -------
        torch.Tensor
            Shape ``(images, height, width, 3)``, bytes.
        """
        pipe, vae = self.pipeline, self.pipeline.vae
        pipe.set_progress_bar_config(disable=True)
        side = size // self.shrinks * (pipe.vae_scale_factor if vae is not None else LATENT_SHARE)
        how: dict[str, Any] = {"height": side, "width": side, "num_inference_steps": steps, "output_type": "latent"}
        how |= {} if guidance is None else {"guidance_scale": guidance}
        noise = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        with _quietly():
            latents = pipe(prompt=list(prompts), generator=noise, **how).images
        if vae is not None:
            shift = getattr(vae.config, "shift_factor", None) or 0.0
            latents = vae.decode((latents / vae.config.scaling_factor + shift).to(vae.dtype), return_dict=False)[0]
        images = (latents.float() / 2 + 0.5).clamp(0, 1).mul(255).round().byte().cpu()
        return images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)


def config(folder: Path, name: str) -> DiffusionConfig:
    """Read what a pipeline is made of.

    Parameters
    ----------
    folder : Path
        In diffusers' format.
    name : str
        Of the model, for errors.

    Returns
    -------
    DiffusionConfig
        Whatever tells the base from another.

    Raises
    ------
    ModelError
        No pipeline that can be trained, or diffusers is not installed.
    """
    try:
        import diffusers  # noqa: F401
    except ImportError:
        raise ModelError(f"{name} is a pipeline of diffusers, which is not installed: {EXTRA}") from None
    told = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    kind = told.get("_class_name")
    if kind not in FAMILIES:
        raise ModelError(f"{name} is a {kind}, which is not trained here; {', '.join(FAMILIES)} are")
    part = FAMILIES[kind].part
    if not (file := folder / part / "config.json").is_file():
        raise ModelError(f"cannot load {name}: it has no {part}/config.json; fetch or save it once more")
    denoiser = json.loads(file.read_text(encoding="utf-8"))
    schedule = folder / "scheduler" / "scheduler_config.json"
    scheduler = json.loads(schedule.read_text(encoding="utf-8")) if schedule.is_file() else {}
    width, size = _kept(denoiser), denoiser.get("sample_size") or 64
    encoder = folder / "vae" / "config.json"
    blocks = json.loads(encoder.read_text(encoding="utf-8"))["block_out_channels"] if encoder.is_file() else [1]
    return DiffusionConfig(
        pipeline=kind,
        denoiser={key: one for key, one in denoiser.items() if not key.startswith("_")},
        scheduler={key: one for key, one in scheduler.items() if not key.startswith("_")},
        image_size=int(size[0] if isinstance(size, list | tuple) else size) * 2 ** (len(blocks) - 1),
        num_hidden_layers=1,
        hidden_size=width,
        intermediate_size=4 * width,
    )


def _kept(denoiser: dict[str, Any]) -> int:
    """The width of one layer that keeps as much as all blocks do."""
    if blocks := denoiser.get("block_out_channels"):
        each = denoiser.get("layers_per_block", 2)
        return 2 * (2 * (each if isinstance(each, int) else max(each)) + 1) * sum(blocks)
    heads, width = denoiser.get("num_attention_heads", 1), denoiser.get("attention_head_dim", 64)
    return int(denoiser.get("num_layers", 1) * heads * width)


@contextmanager
def _quietly() -> Iterator[None]:
    """Work without diffusers' bars and log lines."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()


def load(folder: Path, name: str, dtype: str, device: str) -> Diffusion:
    """Load a pipeline, frozen.

    Parameters
    ----------
    folder, name
        As for :func:`config`.
    dtype : str
        Of the denoiser and the text encoders; the autoencoder stays in float32, in which it does not overflow.
    device : str
        Where to.

    Returns
    -------
    Diffusion
        In evaluation mode.

    Raises
    ------
    ModelError
        As of :func:`config`, or its files are damaged.
    """
    about = config(folder, name)
    import diffusers

    absent = {part: None for part, of in _parts(folder) if of is None or part == "safety_checker"}
    wanted = {"default": torch.float32 if dtype == "auto" else getattr(torch, dtype), "vae": torch.float32}
    how: dict[str, Any] = {"dtype": wanted, "use_safetensors": True, "local_files_only": True}
    try:
        with _quietly():
            pipe = getattr(diffusers, about.pipeline).from_pretrained(folder, **how, **absent)
    except Exception as error:  # the libraries below raise whatever they like at files they cannot use
        raise ModelError(f"cannot load {name}: {first_line(error)}") from error
    return _frozen(about, pipe.to(device))


@_quietly()
def assembled(folder: Path, about: DiffusionConfig, device: str, dtype: str) -> Diffusion:
    """Make a pipeline of the same shapes without its weights: on the meta device, or filled at random."""
    import diffusers
    import transformers

    libraries, parts = {"diffusers": diffusers, "transformers": transformers}, dict[str, Any]()
    for part, of in _parts(folder):
        parts[part] = None
        if of is None or part == "safety_checker" or of[0] not in libraries:
            continue
        kind, own = getattr(libraries[of[0]], of[1]), folder / part
        if not issubclass(kind, torch.nn.Module):
            parts[part] = kind.from_pretrained(own, local_files_only=True)
            continue
        with torch.device(device):
            if of[0] == "diffusers":
                parts[part] = kind.from_config(kind.load_config(own, local_files_only=True))
            else:
                parts[part] = kind(kind.config_class.from_pretrained(own, local_files_only=True))
        if part != "vae" and dtype != "float32":
            parts[part].to(getattr(torch, dtype))
    told = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    plain = {key: one for key, one in told.items() if not key.startswith("_") and not isinstance(one, list)}
    return _frozen(about, getattr(diffusers, about.pipeline)(**parts, **plain))


def _frozen(about: DiffusionConfig, pipe: Any) -> Diffusion:
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).eval()
    return Diffusion(about, pipe).requires_grad_(False).eval()


def _parts(folder: Path) -> Iterator[tuple[str, tuple[str, str] | None]]:
    """The parts of a pipeline: library and class of each, None where it has none."""
    for name, of in json.loads((folder / INDEX).read_text(encoding="utf-8")).items():
        if isinstance(of, list) and len(of) == 2:
            yield name, (str(of[0]), str(of[1])) if of[0] else None

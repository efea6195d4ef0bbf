"""From captioned images to how far a denoiser is from the noise in them.

An image gets noise of a time drawn at random, and the model says what of it is noise. All that is drawn for an image
comes from one seed, which is drawn for each image of a step before the step is cut: the cut changes nothing, and a run
that is resumed goes on as it would have. While measuring, the seed follows from the image and its caption.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from peft_nb.data.images.captioned import parts
from peft_nb.data.images.thumbnail import thumbnail
from peft_nb.models.diffusion import Conditions, Diffusion
from peft_nb.training.objectives import Cutting
from peft_nb.training.packing import sent

TIMES = 4  # at which an evaluation image is measured, spread over all
KEPT_BYTES = 2**30  # of latents that are kept, so that an image is shrunk once


@dataclass(frozen=True)
class Seeded:
    """An example with the seed of all that is drawn for it."""

    example: Any
    seed: int

    @property
    def cost(self) -> int:
        """As of the example."""
        cost: int = self.example.cost
        return cost

    @property
    def signal(self) -> bytes:
        """As of the example."""
        signal: bytes = self.example.signal
        return signal


class Noise:
    """How much noise an image has at a time, what is predicted of it, and how much an error counts.

    Parameters
    ----------
    scheduler : mapping
        The configuration of the pipeline's scheduler.
    snr_gamma : float, optional
        Weigh errors by the signal-to-noise ratio, at most so much (Hang et al., 2023, arXiv:2303.09556, equation 5);
        by default all times count alike.
    """

    def __init__(self, scheduler: Mapping[str, Any], snr_gamma: float | None = None) -> None:
        self.gamma = snr_gamma
        self.times = int(scheduler.get("num_train_timesteps", 1000))
        self.flow = flows(scheduler)
        self.predicts = "flow" if self.flow else scheduler.get("prediction_type", "epsilon")
        if self.flow:  # the schedule of rectified flow (Esser et al., 2024, arXiv:2403.03206, section 5.3.2)
            share = torch.arange(self.times, 0, -1) / self.times
            shift = float(scheduler.get("shift", 1.0)) if not scheduler.get("use_dynamic_shifting") else 1.0
            self.sigmas = shift * share / (1 + (shift - 1) * share)
        else:
            from diffusers import DDPMScheduler

            self.alphas = DDPMScheduler.from_config(dict(scheduler)).alphas_cumprod

    def drawn(self, generator: torch.Generator) -> int:
        """Draw a time: all alike or, of a flow, those in the middle more often (logit-normal)."""
        if not self.flow:
            return int(torch.randint(self.times, (), generator=generator))
        return min(self.times - 1, int(torch.randn((), generator=generator).sigmoid() * self.times))

    def added(
        self, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Add noise to latents.

        Parameters
        ----------
        latents, noise : torch.Tensor
            Shape ``(images, channels, …)``, float32.
        times : torch.Tensor
            Shape ``(images,)``.

        Returns
        -------
        noisy, timesteps, wanted, weights : torch.Tensor
            What the model is shown and told, what it is to predict, and what the error of each image counts.
        """
        rows = (-1, *[1] * (latents.dim() - 1))
        if self.flow:
            sigma = self.sigmas.to(latents.device)[times]
            noisy = (1 - sigma.view(rows)) * latents + sigma.view(rows) * noise
            return noisy, sigma * self.times, noise - latents, torch.ones_like(sigma)
        alpha = self.alphas.to(latents.device, torch.float32)[times]
        signal, rest = alpha.sqrt().view(rows), (1 - alpha).sqrt().view(rows)
        noisy = signal * latents + rest * noise
        wanted = {"epsilon": noise, "sample": latents, "v_prediction": signal * noise - rest * latents}[self.predicts]
        return noisy, times, wanted, self._weights(alpha / (1 - alpha))

    def _weights(self, snr: torch.Tensor) -> torch.Tensor:
        if self.gamma is None:
            return torch.ones_like(snr)
        most = snr.clamp(max=self.gamma)
        return {"epsilon": most / snr.clamp(min=1e-20), "v_prediction": most / (snr + 1), "sample": most}[self.predicts]


def flows(scheduler: Mapping[str, Any]) -> bool:
    """Whether a scheduler is one of flow matching, by its configuration."""
    return "beta_start" not in scheduler and "shift" in scheduler


@dataclass(frozen=True)
class DiffusionObjective(Cutting):
    """What the denoiser of a pipeline learns of captioned images, all of one size.

    Attributes
    ----------
    noise : Noise
        What is added to an image, and what is predicted of it.
    class_prompt : str
        Of the images of the class.
    prior_weight : float
        What their errors count beside those of the rows' own images.
    trains_text : bool
        Whether the text encoders change, so that prompts are encoded anew in each step.
    """

    noise: Noise
    class_prompt: str = ""
    prior_weight: float = 1.0
    trains_text: bool = False
    padded: bool = True
    share_prefix: bool = False
    short: int = 0
    prompts: dict[str, Conditions] = field(default_factory=dict, compare=False, repr=False)
    latents: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def __str__(self) -> str:
        weighed = f", min-SNR {self.noise.gamma:g}" if self.noise.gamma is not None else ""
        return f"noise of all times, {self.noise.predicts} predicted{weighed}"

    def begin(self, model: nn.Module, examples: Sequence[Any], budget: int, device: torch.device) -> Sequence[Any]:
        """Seed each image by what is drawn for the step and by itself; while measuring by itself alone."""
        # Drawn once a step, so that each of several processes, which has a part of the images, draws the same.
        step = int(torch.randint(2**62, ())) if model.training else 0
        return [Seeded(one, (_own_seed(one) + step) % 2**62) for one in examples]

    def targets(self, examples: Sequence[Any]) -> int:
        """Number of images, without those of the class."""
        return len(examples)

    def loss(self, model: nn.Module, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Summed mean squared error of the images, weighed; those of the class added."""
        return self._errors(model, examples, device, of_class=True).sum()

    @torch.no_grad()
    def scores(self, model: nn.Module, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        """The error of each image over some times, NaN for tokens, and 1; as of :meth:`Objective.scores`."""
        share = self.noise.times / TIMES
        rounds = [
            self._errors(model, examples, device, at=int(share * (number + 0.5)), salt=number)
            for number in range(TIMES)
        ]
        losses = torch.stack(rounds).mean(0).double()
        return torch.stack((losses, torch.full_like(losses, torch.nan), torch.ones_like(losses)), 1)

    @contextmanager
    def installed(self, model: PeftModel) -> Iterator[None]:
        """Use the model as it is; forget what was computed when the context ends."""
        try:
            yield
        finally:
            self.latents.clear()
            self.prompts.clear()

    def thumbnail(self, example: Any) -> str:
        """The image of an example as a small data URI."""
        from PIL import Image

        return thumbnail(Image.fromarray(parts(example.signal).images[0]))

    def inputs(self, model: PeftModel, example: Any) -> dict[str, Any]:
        """What the model takes of an image in the middle of all times."""
        base = model.get_base_model()
        image = self._drawn(base, [(example, 0)], model.device, self.noise.times // 2, 0)
        noisy, timesteps, _, _ = self.noise.added(*image)
        rows = self._conditions(base, [parts(example.signal).caption])
        pixels = parts(example.signal).images[0].shape[:2]
        dtype = _dtype(base)
        return {"noisy": noisy.to(dtype), "timesteps": timesteps, **base.given(rows, pixels)}

    def _errors(
        self,
        model: Any,
        examples: Sequence[Any],
        device: torch.device,
        *,
        of_class: bool = False,
        at: int | None = None,
        salt: int = 0,
    ) -> torch.Tensor:
        """The weighed mean squared error of each example, of its image and perhaps of that of its class."""
        own = getattr(model, "module", model)  # of several processes each holds its model in another
        base: Diffusion = own.get_base_model() if hasattr(own, "get_base_model") else own
        held = [parts(one.signal) for one in examples]
        shown, places = [(one, 0) for one in examples], [*range(len(examples))]
        captions, shares = [one.caption for one in held], [1.0] * len(held)
        if of_class:
            others = [place for place, one in enumerate(held) if len(one.images) > 1]
            shown += [(examples[place], 1) for place in others]
            captions += [self.class_prompt] * len(others)
            shares += [self.prior_weight] * len(others)
            places += others
        noisy, timesteps, wanted, weights = self.noise.added(*self._drawn(base, shown, device, at, salt))
        height, width = held[0].images[0].shape[:2]
        dtype = _dtype(base)
        given = base.given(self._conditions(base, captions), (height, width))
        predicted = model(noisy.to(dtype), timesteps=timesteps, **given).float()
        errors = (predicted[:, : wanted.shape[1]] - wanted).square().flatten(1).mean(1) * weights
        errors = errors * errors.new_tensor(shares)
        return errors.new_zeros(len(examples)).index_add(0, torch.tensor(places, device=errors.device), errors)

    def _drawn(
        self, base: Diffusion, shown: Sequence[tuple[Any, int]], device: torch.device, at: int | None, salt: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents of images, noise and times, each from its seed."""
        latents, noises, times = [], [], []
        for (mean, deviation), (one, which) in zip(self._latents(base, shown, device), shown, strict=True):
            seed = getattr(one, "seed", None)
            generator = torch.Generator().manual_seed(
                ((_own_seed(one) if seed is None else seed) + 7919 * which + 104729 * salt) % 2**63
            )
            times.append(self.noise.drawn(generator) if at is None else at)
            noise, more = (torch.randn(mean.shape, generator=generator) for _ in range(2))
            noises.append(noise)
            latents.append(mean + deviation * sent(more, device))
        return torch.stack(latents), sent(torch.stack(noises), device), sent(torch.tensor(times), device)

    def _latents(
        self, base: Diffusion, shown: Sequence[tuple[Any, int]], device: torch.device
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Mean and deviation of the latents of images; each is shrunk once, as far as there is room."""
        keys = [(hash(one.signal), which) for one, which in shown]
        new = {key: place for place, key in enumerate(keys) if key not in self.latents}
        found = {}
        if new:
            some = (shown[place] for place in new.values())
            images = [torch.from_numpy(parts(one.signal).images[which].copy()) for one, which in some]
            pixels = sent(torch.stack(images), device).float().permute(0, 3, 1, 2) / 127.5 - 1
            means, deviations = base.encoded(pixels)
            found = dict(zip(new, zip(means, deviations, strict=True), strict=True))
            if (len(self.latents) + len(found)) * 2 * means[0].nbytes <= KEPT_BYTES:
                self.latents.update((key, (one.clone(), spread.clone())) for key, (one, spread) in found.items())
        return [found[key] if key in found else self.latents[key] for key in keys]

    def _conditions(self, base: Diffusion, captions: Sequence[str]) -> Conditions:
        """What the denoiser takes of captions; each is read once, unless what reads them is trained."""
        several = list(dict.fromkeys(captions))
        if self.trains_text:
            rows = base.conditions(several)
            places = [several.index(one) for one in captions]
            return {name: part[places] for name, part in rows.items()}
        if new := [one for one in several if one not in self.prompts]:
            with torch.no_grad():
                rows = base.conditions(new)
            for place, one in enumerate(new):
                self.prompts[one] = {name: part[place] for name, part in rows.items()}
        first = self.prompts[several[0]]
        return {name: torch.stack([self.prompts[one][name] for one in captions]) for name in first}


def _own_seed(example: Any) -> int:
    return zlib.crc32(example.signal)


def _dtype(base: Diffusion) -> torch.dtype:
    """What the denoiser computes in, whatever its adapter is kept in."""
    found: torch.dtype = base.network.dtype
    return found

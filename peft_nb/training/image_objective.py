"""From images to what a head says of them, and its loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy
import torch
from peft import PeftModel
from torch import nn

from peft_nb.data.images.augment import augmented
from peft_nb.data.images.encoding import pixels
from peft_nb.data.images.preprocess import Preprocess
from peft_nb.data.images.thumbnail import thumbnail
from peft_nb.models.quiet import first_line
from peft_nb.training import frozen_blocks, fused, objectives
from peft_nb.training.packing import sent
from peft_nb.training.text_objective import HeadLoss, HeadMetrics, HeadObjective


@dataclass(frozen=True)
class ImageObjective(HeadObjective):
    """What a head on top of a vision model learns about images, all of one size.

    Attributes
    ----------
    prepare : Preprocess
        How images are prepared; they come resized and cropped.
    head_loss : callable
        From logits and examples to the summed loss.
    augment : {"none", "light", "strong"}
        How far images are changed while the model trains.
    plain : bool
        Whether the model's own layers compute everything.
    reason : str
        Why they do.
    interpolate : bool
        Whether the model has to be told that images are of another size than it was made for.
    metrics : HeadMetrics or None
        What evaluations measure beside the loss.
    """

    prepare: Preprocess
    head_loss: HeadLoss
    augment: str = "none"
    plain: bool = True
    reason: str = ""
    interpolate: bool = False
    padded: bool = True  # each to the longest, which is as long as all
    share_prefix: bool = False
    short: int = 0
    metrics: HeadMetrics | None = None
    frozen: frozen_blocks.Frozen = field(default_factory=frozen_blocks.Frozen, compare=False, repr=False)

    def __str__(self) -> str:
        how = "plain layers" if self.plain else "fused layers"
        return f"images of one size, {how}" + f" ({self.reason})" * bool(self.reason)

    @property
    def options(self) -> dict[str, Any]:
        """What the model is told beside the images."""
        return {"interpolate_pos_encoding": True} if self.interpolate else {}

    def inputs(self, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        """What the model takes of some images, shape ``(images, 3, height, width)``."""
        return self._numbers(torch.stack(list(map(_plain, examples))), device)

    def thumbnail(self, example: Any) -> str:
        """The image of an example as a small data URI."""
        from PIL import Image

        return thumbnail(Image.fromarray(pixels(example.signal)))

    def logits(self, model: nn.Module, examples: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Logits of some images, shape ``(images, outputs)``, float32."""
        if model.training and self.augment != "none":
            images = self._numbers(torch.stack([self._drawn(one) for one in examples]), device)
        elif self.frozen.at_work:
            return self.frozen.logits(model, examples, lambda some: self.inputs(some, device), self.options).float()
        else:
            images = self.inputs(examples, device)
        return model(pixel_values=images, **self.options).logits.float()

    def _numbers(self, images: torch.Tensor, device: torch.device) -> torch.Tensor:
        """What the model takes: of bytes ``(images, height, width, 3)`` normalised ``(images, 3, height, width)``."""
        mean, std = (torch.tensor(one, device=device) for one in (self.prepare.mean, self.prepare.std))
        return ((sent(images, device).float() / 255 - mean) / std).permute(0, 3, 1, 2)

    def _drawn(self, example: Any) -> torch.Tensor:
        """An image as the model is shown it once, by torch's generator, from which a resumed run goes on."""
        from PIL import Image

        def draw() -> float:
            return float(torch.rand(()))

        image = Image.fromarray(pixels(example.signal, roomy=True))
        return torch.from_numpy(numpy.array(augmented(image, self.prepare, self.augment, draw)))

    @contextmanager
    def installed(self, model: PeftModel) -> Iterator[None]:
        """Fuse layers while the context lasts, and compute what no training changes once; unless it is plain."""
        with ExitStack() as stack:
            if not self.plain:
                stack.enter_context(fused.installed(model))
                stack.enter_context(self.frozen.installed(model))
            yield


def _plain(example: Any) -> torch.Tensor:
    return torch.from_numpy(pixels(example.signal).copy())


def foresee(wanted: ImageObjective, *, fast: bool) -> ImageObjective:
    """Pick the objective that :func:`choose` will pick unless its check finds a fault; computes nothing."""
    return replace(wanted, plain=not fast, reason="" if fast else "fast is off")


def choose(
    model: PeftModel,
    examples: Sequence[Any],
    device: torch.device,
    wanted: ImageObjective,
    *,
    fast: bool,
) -> ImageObjective:
    """Pick the fused layers if they give this model's losses and gradients, its own otherwise.

    Parameters
    ----------
    model : PeftModel
        The model with its head and the adapter that will be trained.
    examples : sequence of Example
        Training examples, of which the first few are tried.
    device : torch.device
        Where the model is.
    wanted : ImageObjective
        What images and their loss are.
    fast : bool
        Whether the user wants the fused layers.

    Returns
    -------
    ImageObjective
        Fused, or plain with the reason for it.
    """
    wanted = foresee(wanted, fast=fast)
    if wanted.plain:
        return wanted
    dtype = next(model.get_base_model().parameters()).dtype
    most_loss, most_gradient = objectives.TOLERANCE[dtype]
    fused_way, plain = replace(wanted, augment="none"), replace(wanted, augment="none", plain=True)
    try:
        loss, gradient = objectives.disagreement(model, fused_way, plain, examples[:3], device)
    except Exception as error:
        reason = f"fused layers do not fit {type(model.get_base_model()).__name__}: {first_line(error)}"
        return replace(wanted, plain=True, reason=reason)
    if loss <= most_loss and gradient <= most_gradient:
        return wanted
    told = f"fused layers differed on a few images, the loss by {loss:.1e} and gradients by {gradient:.1e}"
    return replace(wanted, plain=True, reason=told)

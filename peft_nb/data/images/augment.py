"""Images as they are shown to a model in training: cropped, coloured and turned at random, by Pillow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from peft_nb.data.images.preprocess import Preprocess

Draw = Callable[[], float]
"""Gives a number from 0 to 1, another one each time."""


@dataclass(frozen=True)
class Strength:
    """How far an image may be changed.

    Attributes
    ----------
    area : float
        Share of the image that a crop keeps at least.
    ratio : float
        By which factor its shape may be squeezed.
    colour : float
        By which share brightness, contrast and saturation may change.
    turn : float
        Degrees.
    flip : bool
        Whether left and right are swapped in half of the cases. Not in ``light``: it spoils letters and digits.
    erase : float
        Probability that a rectangle of up to a fifth is grey (random erasing, Zhong et al., 2017, arXiv:1708.04896).
    """

    area: float
    ratio: float
    colour: float
    turn: float
    flip: bool
    erase: float


STRENGTHS = {
    "light": Strength(0.8, 1.1, 0.1, 0.0, False, 0.0),
    "strong": Strength(0.4, 4 / 3, 0.4, 15.0, True, 0.25),
}


def augmented(image: Image, prepare: Preprocess, strength: str, draw: Draw) -> Image:
    """Change an image at random.

    Parameters
    ----------
    image : PIL.Image.Image
        With room around, as ``Preprocess.resized(roomy=True)`` leaves it.
    prepare : Preprocess
        Tells the size that the model takes.
    strength : {"light", "strong"}
        A key of `STRENGTHS`.
    draw : callable
        Source of all chance.

    Returns
    -------
    PIL.Image.Image
        Of the model's size.
    """
    from PIL import ImageEnhance
    from PIL.Image import Resampling, Transpose

    how = STRENGTHS[strength]
    if how.turn:
        image = image.rotate((2 * draw() - 1) * how.turn, resample=Resampling.BILINEAR, fillcolor=_mean(image))
    image = _cropped(image, prepare, how, draw)
    if how.flip and draw() < 0.5:
        image = image.transpose(Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(1 + (2 * draw() - 1) * how.colour)
    if how.erase and draw() < how.erase:
        image = _erased(image, draw)
    return image


def _cropped(image: Image, prepare: Preprocess, how: Strength, draw: Draw) -> Image:
    """A crop of random area, shape and place, resized (Szegedy et al., 2014, arXiv:1409.4842)."""
    wanted = prepare.width / prepare.height
    area = (how.area + (1 - how.area) * draw()) * image.width * image.height
    ratio = wanted * how.ratio ** (2 * draw() - 1)
    width = min(image.width, round(math.sqrt(area * ratio)))
    height = min(image.height, round(math.sqrt(area / ratio)))
    left, top = (round(draw() * room) for room in (image.width - width, image.height - height))
    box = (left, top, left + width, top + height)
    return image.resize((prepare.width, prepare.height), prepare.resample, box=box)


def _erased(image: Image, draw: Draw) -> Image:
    image = image.copy()
    width, height = (max(1, round(side * math.sqrt(0.02 + 0.18 * draw()))) for side in image.size)
    left, top = round(draw() * (image.width - width)), round(draw() * (image.height - height))
    image.paste(_mean(image), (left, top, left + width, top + height))
    return image


def _mean(image: Image) -> tuple[int, ...]:
    colour = image.resize((1, 1), 4).getpixel((0, 0))
    return tuple(colour) if isinstance(colour, tuple) else (int(colour or 0),)

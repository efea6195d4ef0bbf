"""Which parts of an input made the output: what a model says when some of them are left out, by Captum's methods.

The parts are words of a text or cells of an image. A model is never asked twice about the same parts, so that Shapley
values of several outputs cost what those of one do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy
import torch

from peft_nb.errors import MethodError
from peft_nb.training.draws import OwnDraws

if TYPE_CHECKING:
    from PIL.Image import Image

By = Literal["ablation", "shapley"]
MOST = 48  # parts of a text; a longer one is cut into as many stretches of words
SIDE = 7  # cells of an image across and down
SAMPLES = 16  # orders in which Shapley values put the parts back
AT_ONCE = 32  # inputs that are scored together

Mask = tuple[bool, ...]
Score = Callable[[Sequence[Mask]], numpy.ndarray]
"""From which parts are there to a score of each output, shape ``(masks, outputs)``."""


class Parts(Protocol):
    """An input that can lack some of its parts."""

    names: tuple[str, ...]

    def keep(self, mask: Mask) -> Any:
        """The input with the parts that are True alone."""


class Words:
    """A text in words, each with the white space after it; a long one in stretches of several.

    Parameters
    ----------
    text : str
        Any text; white space around it is dropped.
    most : int
        Parts at most; default 48.
    """

    def __init__(self, text: str, most: int = MOST) -> None:
        words = re.findall(r"\S+\s*", text.strip())
        each = -(-len(words) // most) or 1
        self.names = tuple("".join(words[start : start + each]) for start in range(0, len(words), each))
        self.grouped = each > 1

    def keep(self, mask: Mask) -> str:
        """The text without the words that are False."""
        return "".join(word for word, kept in zip(self.names, mask, strict=True) if kept).strip()


class Cells:
    """An image in a grid of cells; one that is left out gets the image's mean colour (Zeiler and Fergus, 2014).

    Parameters
    ----------
    image : PIL.Image.Image
        Any mode; taken as RGB.
    side : int
        Cells across and down; default 7.
    """

    def __init__(self, image: Image, side: int = SIDE) -> None:
        self.image, self.side = image.convert("RGB"), side
        places = [(row, column) for row in range(side) for column in range(side)]
        self.names = tuple(f"row {row + 1}, column {column + 1}" for row, column in places)
        across, down = ([round(size * place / side) for place in range(side + 1)] for size in self.image.size)
        self.boxes = [(across[column], down[row], across[column + 1], down[row + 1]) for row, column in places]
        self._mean = tuple(int(one) for one in numpy.asarray(self.image).reshape(-1, 3).mean(0).round())

    def keep(self, mask: Mask) -> Image:
        """The image with the cells that are False painted over."""
        found = self.image.copy()
        for box, kept in zip(self.boxes, mask, strict=True):
            if not kept:
                found.paste(self._mean, box)
        return found


def attribute(
    score: Score, parts: int, *, by: By = "ablation", seed: int = 0, heed: Callable[[float], None] = lambda share: None
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Say how much each part adds to the score of each output.

    Parameters
    ----------
    score : callable
        Scores inputs that lack some parts.
    parts : int
        How many there are, at least one.
    by : {"ablation", "shapley"}
        ``ablation``: the score of the whole minus that without the part, ``parts + 1`` inputs. ``shapley``: the mean of
        what a part adds over 16 random orders of putting all parts back (Castro et al., 2009), which shares what parts
        do together among them and adds up to the whole minus nothing at all.
    seed : int
        Of the orders.
    heed : callable
        Told the share that is done.

    Returns
    -------
    weights : numpy.ndarray
        Shape ``(outputs, parts)``, in the unit of the score.
    ends : numpy.ndarray
        Shape ``(2, outputs)``: the scores with all parts and with none.

    Raises
    ------
    MethodError
        If Captum is not installed.

    References
    ----------
    Miglani et al. (2023), "Using Captum to Explain Generative Language Models", arXiv:2312.05491.
    """
    try:
        from captum.attr import FeatureAblation, ShapleyValueSampling
    except ImportError:
        raise MethodError('explanations need Captum; pip install "peft_nb[explain]"') from None
    known: dict[Mask, numpy.ndarray] = {}
    expected = parts + 2 if by == "ablation" else SAMPLES * (parts - 1) + 2

    def learn(masks: Sequence[Mask]) -> None:
        new = [mask for mask in dict.fromkeys(masks) if mask not in known]
        if new:
            known.update(zip(new, score(new), strict=True))
            heed(min(1.0, len(known) / expected))

    def forward(present: torch.Tensor, output: int) -> torch.Tensor:
        masks = [tuple(row) for row in present.bool().tolist()]
        learn(masks)
        return torch.tensor([float(known[mask][output]) for mask in masks], dtype=torch.float64)

    everything, nothing = (True,) * parts, (False,) * parts
    learn([everything, nothing])
    present, how = torch.ones(1, parts, dtype=torch.float64), {"perturbations_per_eval": AT_ONCE}
    if by == "shapley":
        how["n_samples"] = SAMPLES
    found = []
    for output in range(len(known[everything])):
        method = (FeatureAblation if by == "ablation" else ShapleyValueSampling)(forward)
        with OwnDraws(seed):  # the same orders for each
            weights = method.attribute(present, additional_forward_args=(output,), **how)
        found.append(weights[0].numpy())
    return numpy.stack(found), numpy.stack([known[everything], known[nothing]])

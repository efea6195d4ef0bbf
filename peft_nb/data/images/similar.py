"""Images that are the same, or nearly: by their pixels, and by a perceptual hash that is then confirmed.

The hash is pHash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010): the signs of the
lowest frequencies of an image in grey. Two images with near hashes are near-duplicates only if their thumbnails are
alike too, for plain drawings on white have near hashes and differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peft_nb.data import media
from peft_nb.data.images.picture import Picture, digest, located, upright
from peft_nb.data.media import Compare, Looks, looks_of
from peft_nb.events import Progress

if TYPE_CHECKING:
    import numpy

GRID, BITS = 64, 16  # pixels of the grey image, and of its frequencies a side
FAR = 20  # of 256 bits, by which the hashes of near-duplicates differ at most
ALIKE = 0.97  # correlation of their thumbnails, at least
THUMB = 24  # pixels of these a side


@dataclass(frozen=True)
class Look:
    """What is seen of an image once: its size and mode, its pixels' hash, pHash and thumbnail, and its EXIF's place."""

    width: int
    height: int
    mode: str
    exact: str
    bits: numpy.ndarray
    thumb: numpy.ndarray
    located: bool


def _looked(picture: Picture) -> Look:
    import numpy
    from PIL.Image import Resampling
    from scipy.fft import dctn

    raw = picture.raw()
    image = upright(raw)
    grey = image.convert("L")
    # Shrunk in one step with all pixels counted, so that a copy of another size has about the same.
    small = numpy.asarray(grey.resize((GRID, GRID), Resampling.LANCZOS), "float64")
    low = dctn(small, norm="ortho")[:BITS, :BITS].flatten()
    bits = low > numpy.median(low)
    thumb = numpy.asarray(grey.resize((THUMB, THUMB), Resampling.BOX), "float32").flatten()
    thumb -= thumb.mean()
    thumb /= max(1e-6, float(numpy.linalg.norm(thumb)))
    return Look(raw.width, raw.height, raw.mode, digest(image), bits, thumb, located(raw))


look = Looks(_looked)
"""Looks at an image, once as long as it does not change; RowProblem where it cannot be read."""


def groups(pictures: Sequence[Picture], *, progress: Progress | None = None) -> list[int]:
    """Group the images that are exact or near-duplicates of each other; as :func:`.media.grouped`."""
    return grouped(looks_of(pictures, look, "comparing images", progress))


def grouped(looks: Sequence[Look | None]) -> list[int]:
    """Group what was seen of images; as :func:`.media.grouped`."""
    return media.grouped(looks, _compared)


def _compared(looks: Sequence[Look]) -> Compare:
    import numpy

    signs = numpy.stack([one.bits for one in looks]).astype("float32") * 2 - 1
    thumbs = numpy.stack([one.thumb for one in looks])

    def compare(some: slice, others: slice) -> numpy.ndarray:
        near: numpy.ndarray = signs[some] @ signs[others].T >= signs.shape[1] - 2 * FAR
        return near & (thumbs[some] @ thumbs[others].T >= ALIKE)

    return compare

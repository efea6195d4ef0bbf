"""Images that are the same, or nearly: by their pixels, and by a perceptual hash that is then confirmed.

The hash is pHash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010): the signs of the
lowest frequencies of an image in grey. Two images with near hashes are near-duplicates only if their thumbnails are
alike too, for plain drawings on white have near hashes and differ.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peft_nb.data import RowProblem
from peft_nb.data.images.picture import Picture, digest, located, upright
from peft_nb.events import Progress

if TYPE_CHECKING:
    import numpy

NEAR_ROWS = 20_000  # above this only exact duplicates are looked for: pairs grow with the square
GRID, BITS = 64, 16  # pixels of the grey image, and of its frequencies a side
FAR = 20  # of 256 bits, by which the hashes of near-duplicates differ at most
ALIKE = 0.97  # correlation of their thumbnails, at least
THUMB = 24  # pixels of these a side
REMEMBERED = 50_000  # images


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


_seen: OrderedDict[str, Look | RowProblem] = OrderedDict()


def look(picture: Picture) -> Look:
    """Look at an image, once as long as it does not change; RowProblem where it cannot be read."""
    state = picture.state
    if state not in _seen:
        try:
            _seen[state] = _looked(picture)
        except RowProblem as problem:
            _seen[state] = problem
        if len(_seen) > REMEMBERED:
            _seen.popitem(last=False)
    found = _seen[state]
    if isinstance(found, RowProblem):
        raise RowProblem(found.reason, found.fix)
    return found


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


def groups(pictures: Sequence[Picture], *, progress: Progress | None = None) -> list[int]:
    """Group the images that are exact or near-duplicates of each other.

    Parameters
    ----------
    pictures : sequence of Picture
        One a row. Above `NEAR_ROWS` only exact duplicates are found. One that cannot be read is alone.
    progress : callable, optional
        Called with the share that is done (0 to 1) and what is being done.

    Returns
    -------
    list of int
        For each image the number of the first of its group; one alone has its own number.
    """
    looks: list[Look | None] = []
    for number, picture in enumerate(pictures):
        try:
            looks.append(look(picture))
        except RowProblem:
            looks.append(None)
        if progress:
            progress((number + 1) / len(pictures), "comparing images")
    return grouped(looks)


def grouped(looks: Sequence[Look | None]) -> list[int]:
    """Group what was seen of images; as :func:`groups`."""
    first: dict[Any, int] = {}
    leader = [first.setdefault(one.exact if one else number, number) for number, one in enumerate(looks)]
    distinct = [number for number in first.values() if looks[number]]
    if len(distinct) > NEAR_ROWS:
        return leader
    near = _near([one for number in distinct if (one := looks[number])])
    own = dict(zip(distinct, (distinct[place] for place in near), strict=True))
    return [own.get(number, number) for number in leader]


def _near(looks: Sequence[Look]) -> list[int]:
    """For each the place of the first that it is a near-duplicate of, or its own."""
    import numpy

    if not looks:
        return []
    signs = numpy.stack([one.bits for one in looks]).astype("float32") * 2 - 1
    thumbs = numpy.stack([one.thumb for one in looks])
    found = list(range(len(looks)))
    for start in range(0, len(looks), 1024):
        stop = min(len(looks), start + 1024)
        close = signs[start:stop] @ signs[:stop].T >= signs.shape[1] - 2 * FAR
        close &= thumbs[start:stop] @ thumbs[:stop].T >= ALIKE
        for row, column in zip(*numpy.nonzero(close), strict=True):
            place, other = start + int(row), int(column)
            if other < place and found[place] == place:
                found[place] = found[other]
    return found

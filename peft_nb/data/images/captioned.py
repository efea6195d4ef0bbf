"""Captioned images as examples: each decoded and resized once, its pixels and its caption kept beside all others.

To keep what a class of things looks like, each example may bring an image of that class, as DreamBooth's prior
preservation has it (Ruiz et al., 2022, arXiv:2208.12242): rows and images of the class take turns, as often as the
longer of both lists is long.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.data import RowProblem, media
from peft_nb.data.examples import Encoded, Example, Report, collect
from peft_nb.data.examples import cached as cached_examples
from peft_nb.data.images.encoding import DOING, SIZES, content, packed, pixels, state
from peft_nb.data.images.picture import Picture
from peft_nb.data.images.preprocess import Preprocess
from peft_nb.data.layouts import Layout
from peft_nb.errors import DataError
from peft_nb.events import Progress

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image

Table = Sequence[Mapping[str, Any]]

VERSION = 2  # to be raised whenever the same images are prepared otherwise
LABEL = "{label}"  # in a prompt for all rows, what stands for their labels


@dataclass(frozen=True)
class Captioned:
    """What an example holds.

    Attributes
    ----------
    caption : str
        Of the image.
    images : tuple of numpy.ndarray
        Shape ``(height, width, 3)``, bytes: the row's own and, where there is one, that of the class.
    """

    caption: str
    images: tuple[numpy.ndarray, ...]


def example(image: Image, caption: str, prepare: Preprocess, cost: int, of_class: bytes = b"") -> Example:
    """Make an example of an image, its caption, and perhaps a packed image of its class.

    Parameters
    ----------
    image : PIL.Image.Image
        In RGB.
    caption : str
        What it shows.
    prepare : Preprocess
        How it is prepared for the model.
    cost : int
        What an image costs a micro-batch.
    of_class : bytes, default b""
        Another image, prepared and packed.

    Returns
    -------
    Example
        Without tokens.
    """
    images = packed(prepare.resized(image)) + of_class
    return Example.of_signal(bytes([1 + bool(of_class)]) + images + caption.encode(), cost * (1 + bool(of_class)))


def parts(signal: bytes) -> Captioned:
    """Take an example of :func:`example` apart."""
    count, rest, images = signal[0], signal[1:], []
    for _ in range(count):
        height, width = SIZES.unpack_from(rest)
        images.append(pixels(rest))
        rest = rest[SIZES.size + 3 * height * width :]
    return Captioned(rest.decode(), tuple(images))


def caption(row: Mapping[str, Any], layout: Layout, prompt: str | None) -> str:
    """What a row's image shows: the prompt for all rows with its label filled in, or the row's own text.

    Raises
    ------
    RowProblem
        It has neither.
    """
    if prompt is None:
        if layout.kind != "captioned" or "text" not in layout.columns:
            raise RowProblem("has no text", "add a column text, or say what all images show: prompt: a photo of …")
        return layout.caption(row)
    return prompt.replace(LABEL, ", ".join(layout.labels(row))) if LABEL in prompt else prompt


def of_class(name: str | list[Picture]) -> list[Picture]:
    """Find the images of a class.

    Parameters
    ----------
    name : str or list of Picture
        A folder or zip of images, or a table with a column of them; or the images themselves.

    Returns
    -------
    list of Picture
        Not opened yet.

    Raises
    ------
    DataError
        There are none.
    """
    from peft_nb.data import detection, sources

    if not isinstance(name, str):
        return name
    rows = sources.read(name).train
    layout = detection.detect(rows)
    if layout.kind not in ("captioned", "image"):
        raise DataError(f"class_data: {name} holds no images; name a folder of them")
    return [content(layout, row) for row in rows]


def encode(
    rows: Table,
    layout: Layout,
    prepare: Preprocess,
    *,
    cost: int,
    prompt: str | None = None,
    class_data: str | None = None,
    folder: Path | None = None,
    row_name: str = "row",
    progress: Progress | None = None,
) -> Encoded:
    """Decode and resize the images of a table.

    Parameters
    ----------
    rows, layout : sequence of mapping, Layout
        The table, and which columns hold images and texts.
    prepare, cost
        As for :func:`example`.
    prompt : str, optional
        What all images show, in place of their own texts.
    class_data : str, optional
        As for :func:`of_class`.
    folder : Path, optional
        Where to write the examples; without one they stay in memory.
    row_name : str, default "row"
        What errors call a row, such as ``evaluation row``.
    progress : callable, optional
        Called with the share that is done (0 to 1) and what is being done.

    Returns
    -------
    Encoded
        One example a row, in the same order, or as many as there are images of the class.

    Raises
    ------
    DataError
        When images cannot be read: all of them counted, the first five named.
    StoreError
        When `folder` cannot be written.
    """

    def produced() -> Iterator[tuple[int, Example]]:
        found: dict[int, tuple[bytes, str]] = {}
        others = [_packed(one, prepare, class_data) for one in of_class(class_data)] if class_data else [b""]

        def make(number: int, row: Mapping[str, Any]) -> Example | None:
            image, told = content(layout, row).open(), caption(row, layout, prompt)
            if len(others) <= len(rows):
                return example(image, told, prepare, cost, others[number % len(others)])
            found[number] = packed(prepare.resized(image)), told
            return None

        yield from media.made_of(rows, make, DOING, row_name, progress)
        for place, other in enumerate(others if found else ()):
            own, told = found[place % len(rows)]
            yield place % len(rows), Example.of_signal(bytes([2]) + own + other + told.encode(), 2 * cost)

    def report(examples: int, tokens: int, supervised: int) -> Report:
        told = "images and what they show"
        return Report(len(rows), examples, 0, 0, (), "truncate", 0, told, layout.why, unit="image")

    return collect(produced(), report, folder)


def _packed(image: Picture, prepare: Preprocess, name: str | None) -> bytes:
    try:
        return packed(prepare.resized(image.open()))
    except RowProblem as problem:
        raise DataError(f"class_data: an image of {name} {problem.reason}; {problem.fix}") from None


def cached(
    root: Path, fingerprint: str, rows: Table, layout: Layout, prepare: Preprocess, **how: Any
) -> tuple[str, Encoded]:
    """Find images that were prepared before, or prepare them and keep them; parameters as for :func:`encode`."""
    kept = {name: one for name, one in how.items() if name != "progress"}
    classes = [one.state for one in of_class(how["class_data"])] if how.get("class_data") else []
    settings = {**kept, "captioned": VERSION, "state": [state(rows, layout), *classes], "columns": layout.columns}
    return cached_examples(
        root, fingerprint, prepare, settings, lambda folder: encode(rows, layout, prepare, folder=folder, **how)
    )

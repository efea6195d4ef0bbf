"""Labelled images as examples: each decoded and resized once, its pixels kept beside those of all others."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.data import media
from peft_nb.data.examples import Encoded, Example, Report, collect
from peft_nb.data.examples import cached as cached_examples
from peft_nb.data.images.picture import Picture
from peft_nb.data.images.preprocess import Preprocess
from peft_nb.data.layouts import Layout
from peft_nb.events import Progress

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image

Table = Sequence[Mapping[str, Any]]

VERSION = 1  # to be raised whenever the same images are prepared otherwise
SIZES = struct.Struct("<HH")  # height and width, before the pixels
DOING = "reading images"


def packed(image: Image) -> bytes:
    """An image in RGB as bytes: its height and width, then its pixels."""
    return SIZES.pack(image.height, image.width) + image.tobytes()


def pixels(signal: bytes, roomy: bool = False) -> numpy.ndarray:
    """The pixels of an example's image.

    Parameters
    ----------
    signal : bytes
        Of an example that :func:`example` made: the image, and perhaps once more with room around it.
    roomy : bool, default False
        Whether the one with room is wanted.

    Returns
    -------
    numpy.ndarray
        Shape ``(height, width, 3)``, uint8.
    """
    import numpy

    start = 0
    if roomy:
        height, width = SIZES.unpack_from(signal)
        start = SIZES.size + 3 * height * width
    height, width = SIZES.unpack_from(signal, start)
    flat = numpy.frombuffer(signal, numpy.uint8, 3 * height * width, start + SIZES.size)
    return flat.reshape(height, width, 3)


def example(image: Image, prepare: Preprocess, cost: int, labels: tuple[Any, ...] = (), roomy: bool = False) -> Example:
    """Make an example of an image.

    Parameters
    ----------
    image : PIL.Image.Image
        In RGB.
    prepare : Preprocess
        How it is prepared for the model.
    cost : int
        What it costs a micro-batch: the patches that the model makes of it.
    labels : tuple of int
        The numbers of its classes.
    roomy : bool, default False
        Whether to keep it once more with room around it, for crops.

    Returns
    -------
    Example
        Without tokens.
    """
    signal = packed(prepare.resized(image)) + (packed(prepare.resized(image, roomy)) if roomy else b"")
    return Example.of_signal(signal, cost, labels)


def encode(
    rows: Table,
    layout: Layout,
    prepare: Preprocess,
    learned: Sequence[tuple[Any, ...]],
    told: str,
    *,
    cost: int,
    roomy: bool = False,
    folder: Path | None = None,
    row_name: str = "row",
    progress: Progress | None = None,
) -> Encoded:
    """Decode and resize the images of a table.

    Parameters
    ----------
    rows, layout : sequence of mapping, Layout
        The table, and which column holds the images.
    prepare, cost, roomy
        As for :func:`example`.
    learned : sequence of tuple
        The numbers of each image's classes.
    told : str
        What these are, for the report.
    folder : Path, optional
        Where to write the examples; without one they stay in memory.
    row_name : str, default "row"
        What errors call a row, such as ``evaluation row``.
    progress : callable, optional
        Called with the share that is done (0 to 1) and what is being done.

    Returns
    -------
    Encoded
        One example a row, in the same order.

    Raises
    ------
    DataError
        When images cannot be read: all of them counted, the first five named.
    StoreError
        When `folder` cannot be written.
    """

    def make(number: int, row: Mapping[str, Any]) -> Example:
        return example(content(layout, row).open(), prepare, cost, learned[number], roomy)

    def report(examples: int, tokens: int, supervised: int) -> Report:
        return Report(len(rows), examples, 0, 0, (), "truncate", 0, told, layout.why, unit="image")

    return collect(media.made_of(rows, make, DOING, row_name, progress), report, folder)


def cached(
    root: Path, fingerprint: str, rows: Table, layout: Layout, prepare: Preprocess, **how: Any
) -> tuple[str, Encoded]:
    """Find images that were prepared before, or prepare them and keep them; parameters as for :func:`encode`."""
    kept = {name: one for name, one in how.items() if name not in ("progress", "told")}
    settings = {**kept, "version": VERSION, "state": state(rows, layout), "columns": layout.columns}
    return cached_examples(
        root, fingerprint, prepare, settings, lambda folder: encode(rows, layout, prepare, folder=folder, **how)
    )


def state(rows: Table, layout: Layout) -> str:
    """Hash what tells whether the images of a table have changed, as :func:`.media.state`."""
    return media.state(rows, partial(content, layout))


def content(layout: Layout, row: Mapping[str, Any]) -> Picture:
    """The image of a row, not opened yet."""
    found: Any = layout.text(row)
    assert isinstance(found, Picture)
    return found

"""One image of a row, wherever it lies: in a file, a zip, bytes, or an object in memory; opened when needed."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.data import RowProblem

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))
ORIENTATION, GPS = 0x0112, 0x8825  # tags of EXIF
MOST_PIXELS = 2**28  # of a file that is opened: more is a mistake, or meant to fill the memory
DATA_URI = re.compile(r"data:image/\w+;base64,")
IN_ZIP = re.compile(r"(?i)^(.+?\.zip)[/\\](.+)$")


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that is read only when it is asked for; equal to another where it is known to hold the same.

    Attributes
    ----------
    held : str, bytes, PIL.Image.Image or numpy.ndarray
        A path, which may lead into a zip; the bytes of a file; an image; or an array of shape ``(height, width)`` or
        ``(height, width, channels)``, of whole numbers up to 255 or of fractions up to 1.
    """

    held: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picture) and self.state == other.state

    def __hash__(self) -> int:
        return hash(self.state)

    @property
    def name(self) -> str:
        """The file's name, or what it is."""
        if isinstance(self.held, str):
            return re.split(r"[/\\]", self.held)[-1]
        return "bytes" if isinstance(self.held, bytes) else f"{type(self.held).__name__}"

    @property
    def state(self) -> str:
        """Changes whenever the image may have changed: of a file its size and time, else the content."""
        if isinstance(self.held, str):
            inside = IN_ZIP.match(self.held)
            try:
                found = os.stat(inside[1] if inside and not os.path.exists(self.held) else self.held)
            except OSError:
                return f"{self.held} missing"
            return f"{self.held} {found.st_size} {found.st_mtime_ns}"
        return digest(self.held)

    @property
    def cell(self) -> str:
        """As JSON holds it and :func:`picture` reads it: the path, or a data URI. Errors as of :meth:`raw`."""
        if isinstance(self.held, str):
            return self.held
        kind, content = "file", self.held
        if not isinstance(content, bytes):
            self.open().save(file := io.BytesIO(), kind := "png")
            content = file.getvalue()
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

    def raw(self) -> Image:
        """Open the image as it is.

        Raises
        ------
        RowProblem
            It is missing, no image, or broken.
        """
        import numpy
        from PIL import Image, UnidentifiedImageError

        held = self.held
        if isinstance(held, Image.Image):
            return held
        if isinstance(held, numpy.ndarray):
            return Image.fromarray(_bytes_of(held))
        name = f"{self.name!r} " if isinstance(held, str) else ""
        try:
            found = Image.open(io.BytesIO(_member(held) if isinstance(held, str) else held))
            if found.width * found.height > MOST_PIXELS:
                raise RowProblem(f"{name}has {found.width:,} × {found.height:,} pixels", "make it smaller")
            found.load()
        except FileNotFoundError:
            raise RowProblem(f"there is no file {held!r}", "correct the path, or drop the row") from None
        except UnidentifiedImageError:
            raise RowProblem(f"{name}is no image that can be read", "replace it or drop the row") from None
        except (OSError, SyntaxError, ValueError, KeyError, zipfile.BadZipFile, Image.DecompressionBombError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RowProblem(f"{name}cannot be read: {why}", "replace it or drop the row") from None
        return found

    def open(self) -> Image:
        """Open the image upright, in RGB; what is transparent becomes white. Errors as of :meth:`raw`."""
        return upright(self.raw())


def upright(image: Image) -> Image:
    """Turn an image as its EXIF says, and into RGB; what is transparent becomes white."""
    from PIL import Image as images
    from PIL import ImageOps

    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I", "F"):  # of 16 bits or fractions, of which convert() would keep the lowest part
        import numpy

        values = numpy.asarray(image, dtype="float64")
        top = values.max() if values.size else 0
        image = images.fromarray(
            (values * (255 / (65535 if top > 255 else 255 if top > 1 else 1))).clip(0, 255).astype("uint8")
        )
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = images.new("RGBA", image.size, (255, 255, 255, 255))
        return images.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def located(image: Image) -> bool:
    """Whether the EXIF of an image says where it was taken."""
    return bool(image.getexif().get_ifd(GPS))


def picture(cell: Any) -> Picture:
    """Read a cell that holds an image.

    Parameters
    ----------
    cell : str, bytes, dict, PIL.Image.Image or numpy.ndarray
        A path or a data URI; a dict as `datasets` keeps images has ``bytes`` or ``path``.

    Returns
    -------
    Picture
        Not opened yet.

    Raises
    ------
    RowProblem
        The cell holds something else.
    """
    if isinstance(cell, Mapping) and (cell.get("bytes") or cell.get("path")):
        cell = cell.get("bytes") or cell["path"]
    if isinstance(cell, os.PathLike):
        cell = os.fspath(cell)
    if isinstance(cell, str) and (found := DATA_URI.match(cell)):
        cell = base64.b64decode(cell[found.end() :])
    if isinstance(cell, str) and cell.strip():
        return Picture(os.path.expanduser(cell.strip()))
    if isinstance(cell, bytearray):
        cell = bytes(cell)
    if isinstance(cell, bytes) or is_image(cell):
        return Picture(cell)
    if getattr(cell, "ndim", 0) in (2, 3) and getattr(cell.dtype, "kind", "") in "uifb":
        if cell.ndim == 3 and cell.shape[2] not in (1, 3, 4):
            shape = " × ".join(map(str, cell.shape))
            raise RowProblem(f"holds an array of {shape}", "give it the shape (height, width, 3): images.transpose")
        return Picture(cell)
    fix = "give paths, PIL images, arrays of shape (height, width, 3), or the bytes of files"
    raise RowProblem(f"holds a {type(cell).__name__}, not an image", fix)


def is_picture(cell: Any) -> bool:
    """Tell whether a cell looks like an image, without opening it: a path by its suffix."""
    if isinstance(cell, str):
        return bool(DATA_URI.match(cell)) or Path(cell.strip()).suffix.lower() in SUFFIXES
    try:
        picture(cell)
    except RowProblem:
        return False
    return True


def is_image(cell: Any) -> bool:
    """Tell whether a cell is an image of Pillow's, without importing it."""
    return any(base.__module__.startswith("PIL.") and base.__name__ == "Image" for base in type(cell).__mro__)


def digest(held: Any) -> str:
    """Hash an image in memory by its content."""
    if isinstance(held, bytes):
        return hashlib.sha256(held).hexdigest()
    about = f"{held.mode} {held.size}" if is_image(held) else f"{held.dtype} {held.shape}"
    return hashlib.sha256(about.encode() + held.tobytes()).hexdigest()


def _bytes_of(array: Any) -> Any:
    """An array as Pillow takes it."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype.kind == "f":
        array = array * 255 if array.size and float(array.max()) <= 1 else array
        return array.round().clip(0, 255).astype("uint8")
    return array.astype("uint8") * 255 if array.dtype.kind == "b" else array.clip(0, 255).astype("uint8")


def _member(path: str) -> bytes:
    """The bytes of a file, which may lie in a zip."""
    inside = IN_ZIP.match(path)
    if inside and not os.path.exists(path):
        return _zip(inside[1], os.stat(inside[1]).st_mtime_ns).read(inside[2])
    return Path(path).read_bytes()


@lru_cache(maxsize=4)
def _zip(path: str, written: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)

"""Images small enough to stay in a saved notebook, as data URIs."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE, QUALITY = 96, 70  # pixels at most, and JPEG's quality: 2 to 4 kB each


def thumbnail(image: Image, side: int = SIDE) -> str:
    """Write an image as a small JPEG.

    Parameters
    ----------
    image : PIL.Image.Image
        In RGB; without its EXIF when written.
    side : int, default 96
        Pixels of the longer side, at most.

    Returns
    -------
    str
        ``data:image/jpeg;base64,…``
    """
    small = image.copy()
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"

"""Thumbnails are small and tell nothing but pixels."""

from __future__ import annotations

import base64
import io

from PIL import Image

from peft_nb.data.images.thumbnail import thumbnail


def test_a_thumbnail_is_a_small_jpeg_without_exif() -> None:
    image = Image.effect_noise((1200, 800), 60).convert("RGB")
    image.getexif()[0x010E] = "somebody's name"
    uri = thumbnail(image)
    assert uri.startswith("data:image/jpeg;base64,")
    assert len(uri) < 6_000
    again = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert again.size == (96, 64)
    assert not dict(again.getexif())
    assert image.size == (1200, 800)

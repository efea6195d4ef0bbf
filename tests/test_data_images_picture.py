"""Images are read from wherever they lie, upright and in RGB, or refused in one line."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from peft_nb.data import RowProblem
from peft_nb.data.images.picture import Picture, is_picture, located, picture, upright
from peft_nb.data.images.thumbnail import thumbnail
from tests.images import drawing


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_the_same_image_comes_out_of_every_container(tmp_path: Path) -> None:
    image = drawing("cross", 1)
    file, archive = tmp_path / "one.png", tmp_path / "all.zip"
    image.save(file)
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(file, "cats/one.png")
    content = encoded(image, "PNG")
    held = [file, str(file), f"{archive}/cats/one.png", image, numpy.asarray(image), content]
    held += [{"bytes": content, "path": None}, {"path": str(file)}, numpy.asarray(image) / 255]
    for cell in held:
        assert picture(cell).open().tobytes() == image.tobytes(), type(cell)


def test_what_is_no_image_is_refused_in_one_line(tmp_path: Path) -> None:
    broken, text = tmp_path / "broken.png", tmp_path / "text.png"
    broken.write_bytes(encoded(drawing("cross", 1, 200), "PNG")[:900])
    text.write_text("hello")
    for cell, told in (
        (tmp_path / "none.png", r"there is no file .*none\.png"),
        (broken, r"'broken\.png' cannot be read: .*trunc"),
        (text, r"'text\.png' is no image that can be read; replace it or drop the row"),
        (3.5, r"holds a float, not an image; give paths"),
        (numpy.zeros((3, 8, 8)), r"holds an array of 3 × 8 × 8; give it the shape \(height, width, 3\)"),
    ):
        with pytest.raises(RowProblem, match=told) as caught:
            picture(cell).open()
        assert "\n" not in str(caught.value)


def test_an_image_is_turned_as_its_exif_says_and_tells_where_it_was_taken() -> None:
    image = drawing("square", 2)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° to the right
    exif.get_ifd(0x8825)[1] = "N"
    found = picture(encoded(image, "PNG", exif=exif.tobytes()))
    assert found.open().tobytes() == image.transpose(Image.Transpose.ROTATE_270).tobytes()
    assert located(found.raw())
    assert picture(thumbnail(image)).open().size == image.size
    assert not located(image)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "LA", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    values = numpy.full((4, 4), 200 * 257, "uint16") if mode == "I;16" else None
    image = Image.fromarray(values) if values is not None else Image.new("L", (4, 4), 200).convert(mode)
    found = upright(image)
    assert found.mode == "RGB"
    assert abs(int(numpy.asarray(found).mean()) - (255 if mode == "1" else 200)) <= 56


def test_what_is_transparent_becomes_white() -> None:
    assert upright(Image.new("RGBA", (2, 2), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_the_state_of_an_image_changes_with_its_content(tmp_path: Path) -> None:
    one, other = drawing("cross", 1), drawing("cross", 2)
    assert Picture(one).state == Picture(one.copy()).state != Picture(other).state
    file = tmp_path / "one.png"
    one.save(file)
    before = Picture(str(file)).state
    other.resize((50, 50)).save(file)
    assert Picture(str(file)).state != before


def test_a_cell_looks_like_an_image_without_being_opened() -> None:
    cells = ["a.JPG", "x/y.png", drawing("cross", 1), numpy.zeros((4, 4, 3)), {"bytes": b"x", "path": None}]
    assert all(map(is_picture, cells))
    assert not any(map(is_picture, ["a text", "a.csv", 3, None, [1, 2], {"role": "user"}, numpy.zeros(3)]))

"""Images that are the same, or nearly."""

from __future__ import annotations

import io

from PIL import Image

from peft_nb.data.images.picture import Picture
from peft_nb.data.images.similar import groups
from tests.images import drawing, rows


def test_copies_in_other_sizes_and_files_are_near_duplicates_and_others_are_not() -> None:
    some = [row["image"] for row in rows(12)]
    photo = drawing("circle", 77, 12).resize((120, 90), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=50)
    held = [*some, some[3].copy(), photo, photo.resize((60, 45)), Image.open(file), some[5].convert("RGBA")]
    found = groups([Picture(one) for one in held])
    assert found == [*range(12), 3, 13, 13, 13, 5]


def test_an_image_that_cannot_be_read_is_alone() -> None:
    assert groups([Picture("none.png"), Picture(drawing("cross", 1)), Picture("none.png")]) == [0, 1, 2]
    assert groups([]) == []

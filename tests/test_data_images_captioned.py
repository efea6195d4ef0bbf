"""Captioned images become examples with their captions, and with images of their class where these are to be kept."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from peft_nb.data.detection import detect
from peft_nb.data.images import captioned
from peft_nb.data.images.captioned import caption, parts
from peft_nb.data.images.preprocess import Preprocess
from peft_nb.errors import DataError
from tests import images

PREPARE = Preprocess(12, 12, 12)
ROWS = [{"image": row["image"], "text": f"ein {row['label']} – ü"} for row in images.rows(5)]


def test_an_example_holds_an_image_and_its_caption() -> None:
    found = captioned.encode(ROWS, detect(ROWS), PREPARE, cost=9)
    assert len(found.examples) == 5
    held = parts(found.examples[2].signal)
    assert held.caption == "ein square – ü"
    (image,) = held.images
    numpy.testing.assert_array_equal(image, numpy.asarray(PREPARE.resized(ROWS[2]["image"])))
    assert (found.examples[2].cost, found.examples.targets) == (9, 5)


def test_images_of_the_class_take_turns_with_the_rows(tmp_path: Path) -> None:
    for number, row in enumerate(images.rows(7)):
        row["image"].save(tmp_path / f"{number}.png")
    more = captioned.encode(ROWS, detect(ROWS), PREPARE, cost=9, class_data=str(tmp_path))
    assert more.examples[0].cost == 18
    assert more.examples.rows.tolist() == [0, 1, 2, 3, 4, 0, 1]
    own, other = parts(more.examples[6].signal).images
    numpy.testing.assert_array_equal(own, numpy.asarray(PREPARE.resized(ROWS[1]["image"])))
    numpy.testing.assert_array_equal(other, numpy.asarray(PREPARE.resized(images.rows(7)[6]["image"])))
    for number in range(3, 7):
        (tmp_path / f"{number}.png").unlink()
    fewer = captioned.encode(ROWS, detect(ROWS), PREPARE, cost=9, class_data=str(tmp_path))
    assert fewer.examples.rows.tolist() == [0, 1, 2, 3, 4]
    numpy.testing.assert_array_equal(
        parts(fewer.examples[4].signal).images[1], numpy.asarray(PREPARE.resized(images.rows(7)[1]["image"]))
    )
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"class_data: an image of .* '0\.png' is no image"):
        captioned.encode(ROWS, detect(ROWS), PREPARE, cost=9, class_data=str(tmp_path))


def test_a_prompt_stands_for_all_texts_and_takes_labels() -> None:
    labelled = images.rows(3)
    assert caption(ROWS[0], detect(ROWS), "sks thing") == "sks thing"
    assert caption(ROWS[0], detect(ROWS), None) == "ein circle – ü"
    assert caption(labelled[1], detect(labelled), "a small {label}") == "a small cross"
    rows = [ROWS[0], {**ROWS[1], "image": "none.png"}, {**ROWS[2], "text": ""}]
    with pytest.raises(DataError, match="2 of 3 rows"):
        captioned.encode(rows, detect(ROWS), PREPARE, cost=9)


def test_the_same_images_are_found_again_unless_a_caption_or_a_file_changes(tmp_path: Path) -> None:
    files = []
    for number, row in enumerate(ROWS):
        row["image"].save(tmp_path / f"{number}.png")
        files.append({"image": str(tmp_path / f"{number}.png"), "text": row["text"]})

    def name(**how: str) -> str:
        where = tmp_path / "cache"
        return captioned.cached(where, "data", files, detect(files), PREPARE, cost=9, row_name="row", **how)[0]

    first = name()
    assert name() == first
    assert name(prompt="sks") != first
    images.drawing("circle", 77).resize((50, 50)).save(tmp_path / "0.png")
    assert name() != first

"""Labelled images as examples, in memory and on disk."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from peft_nb.data import sources
from peft_nb.data.detection import detect
from peft_nb.data.examples import load
from peft_nb.data.images import encoding
from peft_nb.data.images.preprocess import Preprocess
from peft_nb.errors import DataError
from tests import images

PREPARE = Preprocess(0, 32, 24)


def encoded(rows: list, folder: Path | None = None, **how: object) -> encoding.Encoded:
    learned = [(number % 3,) for number in range(len(rows))]
    return encoding.encode(rows, detect(rows), PREPARE, learned, "3 classes", cost=13, folder=folder, **how)  # type: ignore[arg-type]


def test_pixels_labels_and_costs_come_back_from_memory_and_disk(tmp_path: Path) -> None:
    rows = images.rows(7)
    kept = tmp_path / "kept"
    for found in (encoded(rows), encoded(rows, kept), load(kept)):
        assert found is not None
        assert str(found.report).endswith("image_label; 3 classes; 7 images")
        assert found.examples.costs.tolist() == [13] * 7
        assert [one.cost for one in found.examples.take([5, 2])] == [13, 13]
        assert found.examples.labels == [(n % 3,) for n in range(7)]
        for row, one in zip(rows, found.examples, strict=True):
            numpy.testing.assert_array_equal(encoding.pixels(one.signal), numpy.asarray(PREPARE.resized(row["image"])))
        assert len(found.examples.shortest(2)) == 2


def test_an_image_with_room_is_kept_beside_the_one_without() -> None:
    rows = images.rows(3)
    (one, *_) = encoded(rows, roomy=True).examples
    numpy.testing.assert_array_equal(encoding.pixels(one.signal), numpy.asarray(PREPARE.resized(rows[0]["image"])))
    assert encoding.pixels(one.signal, roomy=True).shape == (37, 37, 3)


def test_broken_images_are_counted(tmp_path: Path) -> None:
    rows = [*images.rows(3), {"image": str(tmp_path / "none.png"), "label": "cross"}]
    with pytest.raises(DataError, match=r"^1 of 4 rows cannot be used \(counting from 0\): row 3: there is no file"):
        encoded(rows)


def test_a_file_that_changes_is_prepared_anew(tmp_path: Path) -> None:
    folder = images.folder(tmp_path / "shapes", 3)
    source = sources.read(str(folder))
    how = {"learned": [(0,), (1,), (2,)], "told": "3 classes", "cost": 13}

    def prepared() -> str:
        return encoding.cached(
            tmp_path / "cache", source.fingerprint, source.train, detect(source.train), PREPARE, **how
        )[0]

    before = prepared()
    assert prepared() == before
    images.drawing("cross", 50, 60).save(folder / "cross" / "1.png")
    assert prepared() != before

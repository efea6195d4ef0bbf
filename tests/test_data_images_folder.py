"""Folders and zips of images as rows."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from peft_nb.data import table
from peft_nb.data.detection import detect
from peft_nb.data.images import folder
from peft_nb.data.sources import read
from peft_nb.errors import DataError
from peft_nb.spec import RunSpec
from peft_nb.tasks import inspect
from tests import images


def test_a_folder_and_a_zip_of_it_are_the_same_rows(tmp_path: Path) -> None:
    where = images.folder(tmp_path / "shapes", 9)
    (where / "cross" / "notes.txt").write_text("no image")
    (where / ".hidden").mkdir()
    images.drawing("cross", 1).save(where / ".hidden" / "x.png")
    archive = tmp_path / "shapes.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in where.rglob("*.*"):
            packed.write(file, file.relative_to(tmp_path))
    for path in (where, archive):
        source = read(str(path))
        assert [row["label"] for row in source.train] == ["circle"] * 3 + ["cross"] * 3 + ["square"] * 3
        assert source.origin == f"{path}, 9 rows ({folder.NOTE})"
        layout = detect(source.train)
        assert (layout.name, layout.kind) == ("image_label", "image")
        assert layout.text(source.train[0]).open().size == (40, 40)  # type: ignore[attr-defined]


def test_splits_are_told_by_their_names(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("test", 3)):
        images.folder(tmp_path / split, count)
    source = read(str(tmp_path))
    assert (len(source.train), len(source.eval or ())) == (6, 3)
    assert {row["label"] for row in source.train} == {*images.SHAPES}


def test_images_in_no_folders_have_no_labels(tmp_path: Path) -> None:
    images.drawing("cross", 1).save(tmp_path / "one.png")
    source = read(str(tmp_path))
    assert list(source.train) == [{"image": str(tmp_path / "one.png")}]
    assert detect(source.train).kind == "captioned"
    with pytest.raises(DataError, match=r"generation reads no such images; set task: text-to-image .*, give"):
        inspect(RunSpec(data="x"), table.read(RunSpec(data=str(tmp_path))))
    with pytest.raises(DataError, match=r"image-classification reads no such images; .* as the names of their folders"):
        inspect(RunSpec(data="x", task="image-classification"), table.read(RunSpec(data=str(tmp_path))))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    images.folder(tmp_path / "other" / "test", 3)
    with pytest.raises(DataError, match=r"holds test and no folder train"):
        folder.read(tmp_path / "other")
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"broken.zip is no whole zip"):
        folder.read(tmp_path / "broken.zip")
    (tmp_path / "none").mkdir()
    assert folder.read(tmp_path / "none") is None

"""Captions beside images: a table of all, or a text beside each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peft_nb.data.detection import detect
from peft_nb.data.images import captions
from peft_nb.data.sources import read
from peft_nb.errors import DataError
from tests import images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        images.drawing("cross", number).save(tmp_path / f"{number}.png")
    return tmp_path


def told(folder: Path) -> list[tuple[str, str]]:
    rows = read(str(folder)).train
    assert detect(rows).name == "image_text"
    return [(Path(row["image"]).name, row["text"]) for row in rows]


def test_a_text_beside_each_image_is_its_caption(folder: Path) -> None:
    for number in range(3):
        (folder / f"{number}.txt").write_text(f" cross {number}\n")
    assert told(folder) == [("0.png", "cross 0"), ("1.png", "cross 1"), ("2.png", "cross 2")]
    (folder / "1.txt").unlink()
    with pytest.raises(DataError, match=r"1\.png has no caption beside it; write 1\.txt"):
        read(str(folder))


def test_a_table_says_something_of_its_images(folder: Path) -> None:
    lines = [{"file_name": f"{number}.png", "text": f"cross {number}", "year": 1999} for number in (2, 0)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert told(folder) == [("2.png", "cross 2"), ("0.png", "cross 0")]
    assert read(str(folder)).train[0]["year"] == 1999
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text('file_name,text\n1.png,"a cross, thin"\n', encoding="utf-8-sig")
    assert told(folder) == [("1.png", "a cross, thin")]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"file_name": "7.png", "text": "x"}', r"row 0 \(counting from 0\) names '7\.png', which is not in"),
        ('{"file_name": "../outside.png", "text": "x"}', r"names '\.\./outside\.png', which is not in"),
        ('{"text": "x"}', "has no column file_name"),
        ("no json", "line 1 is no JSON"),
        ("[1]", "line 1 is no JSON object"),
    ],
)
def test_a_table_that_names_no_images_is_refused(line: str, why: str, folder: Path) -> None:
    (folder / "in").mkdir()
    images.drawing("cross", 9).save(folder / "outside.png")
    images.drawing("cross", 9).save(folder / "in" / "a.png")
    (folder / "in" / "metadata.jsonl").write_text(line)
    with pytest.raises(DataError, match=why):
        read(str(folder / "in"))


def test_a_folder_without_captions_has_none(folder: Path) -> None:
    assert captions.read(folder, [str(folder / "0.png")]) is None

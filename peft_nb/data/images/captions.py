"""Captions that lie beside images in a folder: one file for all of them, or a text beside each."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from peft_nb.data import Rows
from peft_nb.errors import DataError

TABLES = ("metadata.jsonl", "metadata.csv", "captions.jsonl", "captions.csv")
FILE = ("file_name", "filename", "file", "image", "path")


def read(folder: Path, images: Sequence[str]) -> Rows | None:
    """Find captions of the images in a folder.

    Parameters
    ----------
    folder : Path
        With ``metadata.jsonl`` or ``metadata.csv``, whose column ``file_name`` names an image below the folder and
        whose other columns say something of it; or with ``1.txt`` beside ``1.jpg``.
    images : sequence of str
        The paths of its images.

    Returns
    -------
    Rows or None
        ``image`` and what is said of it, as ``text`` where it lies in texts; None where nothing is.

    Raises
    ------
    DataError
        A table names no images, or one that is not there; some images have a text and others none.
    """
    for name in TABLES:
        if (file := folder / name).is_file():
            return _table(folder, file)
    texts = [Path(image).with_suffix(".txt") for image in images]
    lacking = [image for image, text in zip(images, texts, strict=True) if not text.is_file()]
    if len(lacking) == len(images):
        return None
    if lacking:
        more = f" and {len(lacking) - 1:,} more" if len(lacking) > 1 else ""
        fix = f"write {Path(lacking[0]).stem}.txt, or move it away"
        raise DataError(f"{lacking[0]}{more} has no caption beside it; {fix}")
    rows = [(image, _text(text)) for image, text in zip(images, texts, strict=True)]
    return _rows(("image", "text"), rows, "each image a row, its .txt the text")


def _table(folder: Path, file: Path) -> Rows:
    lines = list(_lines(file))
    columns = list(dict.fromkeys(name for line in lines for name in line))
    key = next((name for name in FILE if name in columns), "")
    if not key:
        raise DataError(f"{file} has no column file_name; it says which image a row is about")
    others = [name for name in columns if name != key]
    rows = []
    for number, line in enumerate(lines):
        image = folder / str(line.get(key) or "")
        if not image.is_file() or folder.resolve() not in image.resolve().parents:
            raise DataError(f"{file}: row {number} (counting from 0) names {line.get(key)!r}, which is not in {folder}")
        rows.append((str(image), *(line.get(name) for name in others)))
    return _rows(("image", *others), rows, f"each image a row of {file.name}")


def _rows(columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str) -> Rows:
    return Rows(columns, len(rows), lambda start, stop: rows[start:stop], note=note)


def _lines(file: Path) -> Iterator[Mapping[str, Any]]:
    text = _text(file)
    if file.suffix == ".csv":
        yield from csv.DictReader(text.splitlines())
        return
    for number, line in enumerate(filter(str.strip, text.splitlines())):
        try:
            found = json.loads(line)
        except ValueError as error:
            raise DataError(f"{file}: line {number + 1} is no JSON ({error}); write one object a line") from None
        if not isinstance(found, dict):
            raise DataError(f"{file}: line {number + 1} is no JSON object; write one object a line")
        yield found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as UTF-8 ({error}); save it so") from None

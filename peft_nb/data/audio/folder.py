"""A folder of clips: each with its text in a file of the same name, or all texts in one table."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from peft_nb.data import Rows
from peft_nb.data.audio.clip import SUFFIXES
from peft_nb.errors import DataError

SPLITS = ("train", "training", "validation", "valid", "val", "dev", "eval", "test")
TABLES = ("metadata.csv", "metadata.tsv", "transcripts.csv", "transcripts.tsv", "transcripts.txt")
FILE = ("file_name", "file", "filename", "path", "audio", "clip", "wav")
TEXT = ("text", "transcription", "transcript", "sentence", "normalized_text", "raw_text")
FIX = "write the text of each into a file beside it, such as 1.wav and 1.txt, or metadata.csv with file_name and text"

Found = list[tuple[str, str | None]]


def read(path: Path) -> Mapping[str, Rows] | None:
    """Find the clips in a folder, and their texts.

    Parameters
    ----------
    path : Path
        ``folder/1.wav`` with ``folder/1.txt``, or with ``metadata.csv``, whose columns are such as ``file_name`` and
        ``text``; with splits ``folder/train/1.wav`` and ``folder/test/2.wav``.

    Returns
    -------
    mapping of str to Rows, or None
        Rows with ``audio``, a path, and ``text``, None where a clip has none; by split, of which one is ``train``;
        None where there is no clip.

    Raises
    ------
    DataError
        No clip has a text, or a table is broken.
    """
    clips = sorted(_clips(path))
    if not clips:
        return None
    texts = _texts(path)
    splits: dict[str, Found] = {}
    parts = {file: file.relative_to(path).parts for file in clips}
    parted = all(len(one) > 1 and one[0].casefold() in SPLITS for one in parts.values())
    for file in clips:
        split = parts[file][0].casefold() if parted else "train"
        beside = file.with_suffix(".txt")
        text = texts.get(file.resolve())
        if text is None and beside.is_file():
            text = beside.read_text(encoding="utf-8", errors="replace").strip()
        splits.setdefault("train" if split == "training" else split, []).append((str(file), text))
    if not any(text for rows in splits.values() for _, text in rows):
        raise DataError(f"{path} holds {len(clips):,} clips and no texts of what is said; {FIX}")
    if "train" not in splits:
        raise DataError(f"{path} holds {', '.join(splits)} and no folder train; name the folder to train on itself")
    return {split: _rows(rows) for split, rows in splits.items()}


def _rows(rows: Found) -> Rows:
    return Rows(("audio", "text"), len(rows), lambda start, stop: rows[start:stop], note="each clip a row")


def _clips(path: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(path):
        below[:] = [one for one in below if not one.startswith(".")]
        for name in files:
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(folder, name)


def _texts(path: Path) -> dict[Path, str]:
    """The texts of tables in a folder and its splits, by the clip that they name."""
    found: dict[Path, str] = {}
    for folder in (path, *(one for one in path.iterdir() if one.is_dir() and one.name.casefold() in SPLITS)):
        tables = [folder / name for name in TABLES if (folder / name).is_file()]
        others = sorted([*folder.glob("*.csv"), *folder.glob("*.tsv")])
        for table in tables or (others if len(others) == 1 else []):
            found |= _table(table)
    return found


def _table(table: Path) -> dict[Path, str]:
    lines = table.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    first = lines[0] if lines else ""
    delimiter = max(",;\t|", key=first.count)
    rows = list(csv.reader(lines, delimiter=delimiter))
    names = [name.strip().casefold() for name in rows[0]] if rows else []
    file, text = (next((names.index(one) for one in known if one in names), None) for known in (FILE, TEXT))
    if file is None or text is None:
        have = ", ".join(names) or "nothing"
        raise DataError(f"{table} has the columns {have}; name one file_name and one text")
    folder = table.parent
    told = {}
    for row in rows[1:]:
        if len(row) > max(file, text):
            told[_path(folder, row[file].strip())] = row[text].strip()
    return told


def _path(folder: Path, name: str) -> Path:
    """The clip that a table names, with its suffix or without, in its folder or one below."""
    exact = folder / name
    if exact.suffix.lower() not in SUFFIXES:
        exact = next((one for one in folder.rglob(f"{Path(name).name}.*") if one.suffix.lower() in SUFFIXES), exact)
    elif not exact.is_file():
        exact = next(iter(folder.rglob(exact.name)), exact)
    return exact.resolve()

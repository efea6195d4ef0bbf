"""A folder of images, or a zip of one: each image a row, with its caption, or the name of its folder as its label."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from peft_nb.data import Rows
from peft_nb.data.images import captions
from peft_nb.data.images.picture import SUFFIXES
from peft_nb.errors import DataError

SPLITS = ("train", "training", "validation", "valid", "val", "dev", "eval", "test")
NOTE = "each image a row, its folder the label"
BARE = "each image a row, without a caption or a label"


def read(path: Path) -> Mapping[str, Rows] | None:
    """Find the images in a folder or a zip.

    Parameters
    ----------
    path : Path
        ``folder/cat/1.jpg``, or with splits ``folder/train/cat/1.jpg`` and ``folder/test/cat/2.jpg``; with captions
        as :func:`.captions.read` finds them ``folder/1.jpg``.

    Returns
    -------
    mapping of str to Rows, or None
        Rows with ``image``, a path, and ``label`` or ``text``, by split, of which one is ``train``; of images that lie
        in no folders that could name them ``image`` alone. None where there is no image.

    Raises
    ------
    DataError
        The zip is broken, or captions are not as they should be.
    """
    found = sorted(_in_zip(path) if path.is_file() else _in_folder(path))
    if not found:
        return None
    if path.is_dir() and (captioned := captions.read(path, [name for _, name in found])):
        return {"train": captioned}
    splits: dict[str, list[tuple[str, ...]]] = {}
    parted = {place[0].casefold() for place, _ in found} <= {*SPLITS} and any(len(place) > 2 for place, _ in found)
    named = any(len(place) > 1 + parted for place, _ in found)
    for place, name in found:
        label = place[-2] if len(place) > 1 + parted else ""
        split = place[0].casefold() if parted else "train"
        splits.setdefault("train" if split == "training" else split, []).append((name, label)[: 1 + named])
    if "train" not in splits:
        raise DataError(f"{path} holds {', '.join(splits)} and no folder train; name the folder to train on itself")
    return {split: _rows(rows) for split, rows in splits.items()}


def holds_images(path: Path) -> bool:
    """Whether there is an image in a folder or a zip."""
    return any(True for _ in (_in_zip(path) if path.is_file() else _in_folder(path)))


def _rows(rows: list[tuple[str, ...]]) -> Rows:
    columns = ("image", "label")[: len(rows[0])]
    return Rows(columns, len(rows), lambda start, stop: rows[start:stop], note=NOTE if len(columns) > 1 else BARE)


def _in_folder(path: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    for folder, below, files in os.walk(path):
        below[:] = [one for one in below if not one.startswith(".")]
        for name in _images(files):
            file = Path(folder, name)
            yield file.relative_to(path).parts, str(file)


def _in_zip(path: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = list(_images(archive.namelist()))
    except zipfile.BadZipFile:
        raise DataError(f"{path} is no whole zip; pack or fetch it once more") from None
    parts = [PurePosixPath(name).parts for name in names]
    above = len({one[0] for one in parts}) == 1 and all(len(one) > 2 for one in parts)  # all in one folder
    for name, one in zip(names, parts, strict=True):
        yield one[above:], f"{path}/{name}"


def _images(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        last = PurePosixPath(name)
        hidden = any(part.startswith((".", "__MACOSX")) for part in last.parts)
        if last.suffix.lower() in SUFFIXES and not hidden:
            yield name

"""The room a store takes on disk, and the encoded rows that runs share: kept while a run uses them, and no longer."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from peft_nb.errors import RunError
from peft_nb.store import records
from peft_nb.store.connection import Index

# Beside a run: which encoded rows are its own, and those that are asked at the end.
ROWS, ASKED = "examples.json", "judging.json"


@dataclass(frozen=True)
class Space:
    """Bytes on disk.

    Attributes
    ----------
    runs, rows : int
        Of the folders of runs, and of encoded rows.
    unused : int
        Of encoded rows that no run uses.
    """

    runs: int
    rows: int
    unused: int


def rows_of(folder: Path) -> set[str]:
    """Names of the encoded rows that the run in a folder uses."""
    found: set[str | None] = set()
    with suppress(OSError, ValueError):
        told = json.loads((folder / ROWS).read_text(encoding="utf-8"))
        found |= {*told["keys"], *told.get("again", [])}
    with suppress(OSError, ValueError):
        found.add(json.loads((folder / ASKED).read_text(encoding="utf-8"))["regression"])
    return {name for name in found if name}


def forget(index: Index, names: set[str]) -> None:
    """Delete those of some encoded rows that no run uses any more."""
    for folder in _unused(index):
        if folder.name in names:
            shutil.rmtree(folder, ignore_errors=True)


def clear(index: Index) -> int:
    """Delete all encoded rows that no run uses, and give their bytes."""
    for row in index.read(f"{records.ROW} WHERE removed IS NULL AND status IN ('created', 'preparing')"):
        if records.held(row) or records.away(row):
            raise RunError(f"run {row['id']} is {row['status']} and may be encoding rows; wait until it trains")
    gone = 0
    for folder in _unused(index):
        gone += _size(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return gone


def measure(index: Index) -> Space:
    """Measure what lies on disk."""
    unused = sum(_size(folder) for folder in _unused(index))
    return Space(_size(index.runs), _size(index.folder / "examples"), unused)


def _unused(index: Index) -> list[Path]:
    used = {name for folder in index.runs.glob("[!.]*") for name in rows_of(folder)}
    return [one for one in (index.folder / "examples").glob("[!.]*") if one.is_dir() and one.name not in used]


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # gone meanwhile
            size += path.stat().st_size if path.is_file() else 0
    return size

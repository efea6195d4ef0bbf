"""Files of a run on their way between two disks: with their hashes, and nowhere but into the run's own store.

A parcel is one folder with some of its files, or all of them; what arrives otherwise than it was sent is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peft_nb.errors import RunError
from peft_nb.store import space
from peft_nb.system.files import atomic_file, atomic_folder

RUN = r"runs/(?P<run>[\w.-]+)(/adapter|/checkpoints/(checkpoint-\d+|best))?"
OURS = re.compile(rf"start|{RUN}|examples/[\w-]+", re.ASCII)
NAME = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)*", re.ASCII)


def pack(store: Path, folder: Path) -> dict[str, Any]:
    """Read the files of a folder: all that is in it, of a run's own folder only what lies in it directly."""
    whole = folder.parent.name != "runs"
    found = [path for path in (folder.rglob("*") if whole else folder.glob("[!.]*")) if path.is_file()]
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return {"folder": folder.relative_to(store).as_posix(), "files": files, "hashes": hashes, "whole": whole}


def unpack(store: Path, run: str, parcel: dict[str, Any]) -> None:
    """Write what :func:`pack` read, each folder whole or not at all.

    Raises
    ------
    RunError
        If it is not what was sent, or belongs elsewhere.
    """
    place, files = OURS.fullmatch(parcel["folder"]), parcel["files"]
    if not place or place["run"] not in (None, run) or not all(map(NAME.fullmatch, files)):
        raise RunError(f"the cluster sent files for {parcel['folder']}, which are not those of run {run}; none is kept")
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != parcel["hashes"].get(name):
            raise RunError(f"{parcel['folder']}/{name} did not arrive as it was sent; resume() the run")
    target = store / parcel["folder"]
    if not parcel["whole"]:
        for name, content in files.items():
            with atomic_file(target / name) as staging:
                staging.write_bytes(content)
        return
    with atomic_folder(target, overwrite=True) as staging:
        for name, content in files.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_bytes(content)


def encoded(run: Path) -> Iterator[Path]:
    """The folders of the encoded rows of a run."""
    for key in sorted(space.rows_of(run)):
        yield run.parent.parent / "examples" / key


def resumable(run: Path) -> Iterator[Path]:
    """All folders that it takes to go on with a run elsewhere."""
    from peft_nb.training import checkpoint

    yield run
    yield from filter(Path.is_dir, encoded(run))
    if last := checkpoint.latest(run / "checkpoints"):
        yield last
    yield from filter(Path.is_dir, [run / "checkpoints" / "best"])

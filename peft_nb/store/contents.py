"""What the files of an adapter held when they were written, so that a change is found later."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from peft_nb.errors import StoreError


def hashes(folder: Path) -> dict[str, str]:
    """Hash all files of a folder.

    Parameters
    ----------
    folder : Path
        The folder; it need not exist.

    Returns
    -------
    dict of str to str
        SHA-256 of the content (64 hexadecimal digits) by the path within the folder, in order.

    Raises
    ------
    StoreError
        If a file cannot be read.
    """
    found, path = {}, folder
    try:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                found[path.relative_to(folder).as_posix()] = _hash(path)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    return found


def damage(folder: Path, known: Mapping[str, str]) -> dict[str, str]:
    """Compare the files of a folder with what they were.

    Parameters
    ----------
    folder : Path
        The folder.
    known : mapping of str to str
        What :func:`hashes` returned.

    Returns
    -------
    dict of str to str
        ``changed``, ``missing`` or ``unreadable`` by the path of each file that is not what it was.
    """
    found = {path: _state(folder / path, digest) for path, digest in known.items()}
    return {path: state for path, state in found.items() if state}


def _state(path: Path, digest: str) -> str:
    try:
        if not path.is_file():
            return "missing"
        return "" if _hash(path) == digest else "changed"
    except OSError:
        return "unreadable"


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

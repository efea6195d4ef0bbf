"""The user's cache of prepared bases: each is made once, whole or not at all, by one process at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from peft_nb.events import Progress
from peft_nb.system import known
from peft_nb.system.files import atomic_folder, remove_leftovers, writing

CONVERSION = 1  # part of the path: raise it when prepared folders of earlier releases must be made anew


def folder(name: str) -> Path:
    """Say where a prepared base is, or would be.

    Parameters
    ----------
    name : str
        Name of the base, without path separators.

    Returns
    -------
    Path
        Below ``$PEFT_NB_CACHE`` or the user's cache folder; it exists exactly when the base is complete.
    """
    return known.root() / f"models-{CONVERSION}" / name


def prepared(name: str, fill: Callable[[Path], None], progress: Progress) -> Path:
    """Return a base's folder, making it first when it is not there.

    Parameters
    ----------
    name : str
        Name of the base, without path separators.
    fill : callable
        Writes all files into the empty folder it is given.
    progress : callable
        Told when another process is at work on the same base.

    Returns
    -------
    Path
        The complete folder.

    Raises
    ------
    StoreError
        The cache cannot be written.
    """
    target = folder(name)
    if target.is_dir():
        return target
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        held = _hold(FileLock(target.with_name(f".{name}.lock")), name, progress)
    with held:
        if not target.is_dir():
            remove_leftovers(target.parent)
            with atomic_folder(target) as staging:
                fill(staging)
    return target


def _hold(lock: FileLock, name: str, progress: Progress) -> AbstractContextManager[object]:
    # The operating system frees the lock of a killed process, so nobody waits for the dead.
    while True:
        try:
            return lock.acquire(timeout=0.2)
        except Timeout:
            progress(0.0, f"waiting for another process that prepares {name}")

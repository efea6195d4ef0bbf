"""Writes that appear whole or not at all.

Everything is written under a hidden name beside its target, forced to disk and renamed into place. The
hidden name carries its writer, so that what a killed process left can be told from what a living one writes.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil

from peft_nb.errors import StoreError

REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "your disk quota is used up; free some space or choose another folder",
    errno.EFBIG: "a file outgrew what this disk or account allows; choose another folder",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.EACCES: "you may not write there; change its permissions or choose another folder",
    errno.EPERM: "you may not write there; change its permissions or choose another folder",
    errno.EIO: "the disk reports an error; choose another disk and check this one",
    errno.ENOTDIR: "a file stands where a folder is needed; move it away or choose another folder",
    errno.EEXIST: "a file stands where a folder is needed; move it away or choose another folder",
    errno.EISDIR: "a folder stands where a file is needed; move it away or choose another name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}

HIDDEN = re.compile(r"\.(?P<target>.+)~(?P<owner>\d+-\d+\.\d\d-[^~]+)~[0-9a-f]{8}\.(?P<role>new|old)")
FORGOTTEN_S = 24 * 3600  # processes of other hosts cannot be asked whether they live
LITTER = {".DS_Store", ".ipynb_checkpoints"}  # left in any folder by Finder and by JupyterLab


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn whatever the disk refuses inside the block into one :class:`StoreError`.

    Parameters
    ----------
    target : Path
        What is being written; named in the message.

    Raises
    ------
    StoreError
        What is wrong, where, and how to fix it.
    """
    try:
        yield
    except OSError as error:
        raise _refusal(target, error) from error


@contextmanager
def atomic_folder(target: Path | str, *, overwrite: bool = False) -> Iterator[Path]:
    """Write a folder so that it appears whole or not at all.

    Parameters
    ----------
    target : Path or str
        Where the folder shall appear. Missing parents are created.
    overwrite : bool, default False
        An existing folder is replaced when the new one brings every name that the old one holds; any other
        may hold work of the user's and is refused. ``True`` is for folders that belong to the program.

    Yields
    ------
    Path
        An empty folder beside the target, to be filled inside the ``with`` block.

    Raises
    ------
    StoreError
        The disk refused, or the target holds what must not be replaced. The old content, if any, is untouched
        and nothing half-written stays. Errors of the block that are not about writing pass unchanged.
    """
    target = Path(target).expanduser().resolve()
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            os.listdir(target)  # refuses a file before the work is done
        staging = _hidden(target, "new")
        staging.mkdir()
    try:
        try:
            yield staging
        except Exception as error:
            if _concerns(error, staging):
                raise _refusal(target, error) from error
            raise
        with writing(target):
            flush(staging)
            if not overwrite:
                _refuse_loss(target, staging)
            _swap(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Write a file so that readers see the old content or the new, never a part.

    Parameters
    ----------
    path : Path or str
        The file. Missing parents are created, an existing file is replaced.

    Yields
    ------
    Path
        Where to write it inside the ``with`` block.

    Raises
    ------
    StoreError
        The disk refused; the old content, if any, is untouched. Errors of the block that are not about writing pass
        unchanged.
    """
    path = Path(path).expanduser().resolve()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = _hidden(path, "new")
    try:
        try:
            yield staging
        except Exception as error:
            if _concerns(error, staging):
                raise _refusal(path, error) from error
            raise
        with writing(path):
            _sync(staging)
            staging.replace(path)
            _sync(path.parent)
    finally:
        staging.unlink(missing_ok=True)


def atomic_text(path: Path | str, text: str) -> None:
    """Write a text file (UTF-8) so that readers see the old content or the new, never a part.

    Parameters
    ----------
    path : Path or str
        The file. Missing parents are created, an existing file is replaced.
    text : str
        Its whole content.

    Raises
    ------
    StoreError
        The disk refused; the old content, if any, is untouched.
    """
    with atomic_file(path) as staging, staging.open("w", encoding="utf-8", newline="") as file:
        file.write(text)


def remove_leftovers(folder: Path | str) -> None:
    """Clear away what killed writers left in a folder, and put back what one had just set aside.

    Parameters
    ----------
    folder : Path or str
        The folder that holds the targets; it need not exist. What living processes write is left alone.
    """
    with suppress(OSError):
        for entry in list(Path(folder).iterdir()):
            name = HIDDEN.fullmatch(entry.name)
            if not name or _in_use(name["owner"], entry):
                continue
            target = entry.with_name(name["target"])
            if name["role"] == "old" and not target.exists():
                entry.rename(target)
            elif entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def owner(pid: int | None = None) -> str:
    """Name this process, or another of this account, so that others can later tell whether it still lives.

    Returns
    -------
    str
        ``"pid-start-host"``, start in seconds since boot: unlike the time of day it never jumps.
    """
    return _owner(pid or os.getpid())


def alive(owner: str) -> bool | None:
    """Tell whether the process that called :func:`owner` still lives.

    Parameters
    ----------
    owner : str
        What :func:`owner` returned there.

    Returns
    -------
    bool or None
        None for a process of another host.
    """
    pid, start, host = owner.split("-", 2)
    if host != _host():
        return None
    try:
        process = psutil.Process(int(pid))
        return process.status() != psutil.STATUS_ZOMBIE and abs(_start(process) - float(start)) < 1
    except psutil.NoSuchProcess:
        return False


@cache
def _owner(pid: int) -> str:
    return f"{pid}-{_start(psutil.Process(pid)):.2f}-{_host()}"


def _start(process: psutil.Process) -> float:
    return process.create_time() - psutil.boot_time()


def _host() -> str:
    return re.sub(r"[^\w.-]", "_", socket.gethostname())


def _hidden(target: Path, role: str) -> Path:
    return target.with_name(f".{target.name}~{owner()}~{secrets.token_hex(4)}.{role}")


def _in_use(owner: str, entry: Path) -> bool:
    lives = alive(owner)
    return time.time() - entry.stat().st_mtime < FORGOTTEN_S if lives is None else lives


def _refuse_loss(target: Path, staging: Path) -> None:
    held: set[str] = set()
    with suppress(FileNotFoundError):
        held = set(os.listdir(target))
    if lost := sorted(held - LITTER - set(os.listdir(staging))):
        raise StoreError(f"cannot write {target}: it holds {lost[0]!r}, which would be lost; choose another folder")


def _swap(staging: Path, target: Path) -> None:
    while True:
        # No portable call exchanges two folders; remove_leftovers repairs a kill between the two renames.
        aside = _hidden(target, "old")
        with suppress(FileNotFoundError):
            target.rename(aside)
        try:
            staging.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue  # another process put its folder there in between: the last one wins
            if aside.exists():
                aside.rename(target)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        _sync(target.parent)
        return


def flush(folder: Path) -> None:
    """Force a folder and all that is in it to disk."""
    for path, _, names in os.walk(folder):
        for name in names:
            _sync(Path(path, name))
        _sync(Path(path))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _errno(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    # safetensors raises a class of its own, torch.save a RuntimeError without the cause: mostly a full disk.
    if code := re.search(r"\(os error (\d+)\)", str(error)):
        return int(code[1])
    return errno.ENOSPC if "inline_container" in str(error) and "unexpected pos" in str(error) else None


def _concerns(error: Exception, staging: Path) -> bool:
    """Tell a failed write into ``staging`` from whatever else can go wrong while a folder is being filled."""
    file = getattr(error, "filename", None)
    return _errno(error) in REMEDIES and (file is None or Path(os.fsdecode(file)).is_relative_to(staging))


def _refusal(target: Path, error: Exception) -> StoreError:
    code = _errno(error)
    why = REMEDIES.get(code or 0) or f"{os.strerror(code) if code else error}; choose another folder"
    return StoreError(f"cannot write {target}: {why}")

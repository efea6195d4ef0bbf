"""What is heard of a clip at one look: how long and loud it is, and what tells it from others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from peft_nb.data import media
from peft_nb.data.audio.clip import RATE, Clip
from peft_nb.data.media import Compare, Looks, looks_of
from peft_nb.events import Progress

if TYPE_CHECKING:
    import numpy

TIMES, BANDS = 32, 8  # of the sketch of a clip
ALIKE = 0.995  # correlation of the sketches of near-duplicates, at least
AS_LONG = 0.02  # share by which their lengths differ at most
FRAME = RATE // 10
SILENT = 1e-3  # root mean square of the loudest tenth of a second: -60 dB below the loudest there is
QUIET = 0.05  # of the loudest tenth of a second, below which nobody speaks
OVERDRIVEN, TOP = 1e-3, 0.98  # share of samples in runs at the top, and how near to the loudest there is the top lies


@dataclass(frozen=True)
class Look:
    """What is heard of a clip once: seconds, of them spoken, if it is silent or overdriven, a hash, and a sketch."""

    seconds: float
    spoken: float
    silent: bool
    overdriven: bool
    exact: str
    sketch: numpy.ndarray


def looked(samples: numpy.ndarray) -> Look:
    """Listen to samples, shape ``(samples,)``, float32 at 16 kHz."""
    import numpy

    frames = numpy.array_split(samples, max(1, round(len(samples) / FRAME)))
    loud = numpy.array([float(numpy.sqrt(numpy.mean(numpy.square(one)))) for one in frames])
    peak = float(numpy.abs(samples).max())
    at_top = numpy.abs(samples) >= 0.999 * peak
    runs = at_top[2:] & at_top[1:-1] & at_top[:-2]
    overdriven = peak >= TOP and len(runs) > 0 and float(runs.mean()) > OVERDRIVEN
    spoken = float((loud > QUIET * loud.max()).mean()) * len(samples) / RATE
    exact = hashlib.sha256(samples.tobytes()).hexdigest()
    return Look(len(samples) / RATE, spoken, loud.max() < SILENT, overdriven, exact, _sketch(samples))


def _sketch(samples: numpy.ndarray) -> numpy.ndarray:
    """How loud a clip is in a few bands at a few times, in decibels, of mean 0 and length 1."""
    import numpy

    found = numpy.empty((TIMES, BANDS), "float32")
    for place, part in enumerate(numpy.array_split(samples, TIMES)):
        power = numpy.square(numpy.abs(numpy.fft.rfft(part, 512 if len(part) < 512 else None)))
        edges = numpy.geomspace(1, len(power), BANDS + 1).astype(int)
        found[place] = [power[low : max(high, low + 1)].mean() for low, high in pairwise(edges)]
    flat: numpy.ndarray = numpy.log10(found + 1e-6 * max(1e-12, float(found.max()))).flatten()
    flat -= flat.mean()
    return flat / max(1e-6, float(numpy.linalg.norm(flat)))


look: Looks[Clip, Look] = Looks(lambda clip: looked(clip.open()))
"""Listens to a clip, once as long as it does not change; RowProblem where it cannot be read."""


def groups(clips: Sequence[Clip], *, progress: Progress | None = None) -> list[int]:
    """Group the clips that are exact or near-duplicates, as one recording in two formats; as :func:`.media.grouped`."""
    return grouped(looks_of(clips, look, "comparing clips", progress))


def grouped(looks: Sequence[Look | None]) -> list[int]:
    """Group what was heard of clips; as :func:`.media.grouped`."""
    return media.grouped(looks, _compared)


def _compared(looks: Sequence[Look]) -> Compare:
    import numpy

    sketches = numpy.stack([one.sketch for one in looks])
    lengths = numpy.array([one.seconds for one in looks])

    def compare(some: slice, others: slice) -> numpy.ndarray:
        near: numpy.ndarray = sketches[some] @ sketches[others].T >= ALIKE
        return near & (numpy.abs(lengths[some, None] - lengths[others]) <= AS_LONG * lengths[some, None])

    return compare

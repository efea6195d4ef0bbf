"""A clip as a small sound file in a text, as a saved notebook keeps it."""

from __future__ import annotations

import base64
import io
import wave
from typing import TYPE_CHECKING

from peft_nb.data.audio.clip import RATE

if TYPE_CHECKING:
    import numpy

MOST_S = 30  # of a clip that is kept
SMALL = 0.9  # compression, from 0 to 1


def compressed(samples: numpy.ndarray) -> bytes:
    """Compress a clip to listen to: MP3 or, without soundfile, a WAV of 8 kHz and 8 bits.

    Parameters
    ----------
    samples : numpy.ndarray
        Shape ``(samples,)``, float32 at 16 kHz.

    Returns
    -------
    bytes
        A sound file of some 2 to 8 KB a second.
    """
    samples = samples[: MOST_S * RATE].clip(-1, 1)
    file = io.BytesIO()
    try:
        import soundfile

        soundfile.write(file, samples, RATE, format="MP3", bitrate_mode="CONSTANT", compression_level=SMALL)
    except (ImportError, RuntimeError, TypeError, ValueError):
        file = io.BytesIO()
        with wave.open(file, "wb") as writer:
            writer.setnchannels(1)
            writer.setsampwidth(1)
            writer.setframerate(RATE // 2)
            writer.writeframes(((samples[::2] + 1) * 127.5).round().astype("uint8").tobytes())
    return file.getvalue()


def data_uri(sound: bytes) -> str:
    """A sound file that :func:`compressed` gave as a data URI."""
    kind = "wav" if sound[:4] == b"RIFF" else "mpeg"
    return f"data:audio/{kind};base64,{base64.b64encode(sound).decode()}"

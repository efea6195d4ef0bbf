"""The built-in ``spoken-names``: invented product names and words of the harbour, said by espeak-ng as they are loaded.

Nothing recorded is shipped: sentences are synthesised on this machine by the package espeakng-loader.
"""

from __future__ import annotations

import ctypes
import random
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from peft_nb.data.audio.clip import RATE, resampled
from peft_nb.errors import DataError

if TYPE_CHECKING:
    import numpy

NAMES, SEED = 60, 0
TRAIN_VOICES, EVAL_VOICE = ("en-us", "en-gb-x-rp"), "en-gb-scotland"
MISSING = "spoken-names is synthesised by espeak-ng, which is not installed; run: pip install espeakng-loader"
# Beginnings, middles and ends of invented names.
PARTS = (
    "bal dor kes lum mar nix or pel quin ras sol tav ul ver wex yor zan bri cla dre fen gri hul jas kor lyn",
    "a e i o u ar el in or us en al",
    "dax flow gard line mark nor port quil rith stem tron vane wick zor bay mont lux rex tide via",
)
JARGON = (
    "bollard fairlead gantry reefer demurrage bunkering stevedore dunnage freeboard hawser laytime lightering "
    "manifest quay reachstacker shackle slipway spreader stowage straddle tallyman tugmaster twistlock wharfage "
    "windlass capstan bulwark transhipment breakbulk backhaul"
)
SENTENCES = (
    "the {} was delivered to berth four this morning",
    "please move the {} before the tide turns",
    "nobody has signed for the {} yet",
    "we need another {} on the north pier",
    "the captain asked about the {} twice",
    "put the {} next to the crane",
)


@lru_cache(maxsize=2)
def load(names: int = NAMES) -> dict[str, list[dict[str, Any]]]:
    """Say each name in a sentence by two voices and, every other one, in another sentence by a third.

    Parameters
    ----------
    names : int, default 60
        How many; a fifth of them, 30 at most, are words of the harbour.

    Returns
    -------
    dict of str to list of dict
        ``train`` (two voices) and ``eval`` (the third): rows with ``audio``, a dict of ``array`` and
        ``sampling_rate``, and ``text``.

    Raises
    ------
    DataError
        espeakng-loader is not installed.
    """
    espeak, draw = Espeak(), random.Random(SEED)
    train, held = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, name in enumerate(invented(names)):
        own = draw.sample(SENTENCES, 3)
        said = [(train, TRAIN_VOICES[0], own[0], 165), (train, TRAIN_VOICES[1], own[1], 150)]
        said += [(held, EVAL_VOICE, own[2], 158)] * (number % 2 == 0)
        for side, voice, sentence, speed in said:
            text = sentence.format(name)
            array = espeak.say(text, voice, speed, 40 + number % 20)
            side.append({"audio": {"array": array, "sampling_rate": RATE}, "text": text})
    return {"train": train, "eval": held}


def invented(count: int) -> list[str]:
    """Invented product names and words of the harbour, mixed."""
    draw, found = random.Random(SEED), JARGON.split()[: count // 5]
    while len(found) < count:
        name = "".join(draw.choice(part.split()) for part in PARTS)
        if name not in found:
            found.append(name)
    draw.shuffle(found)
    return found


class Espeak:
    """The library espeak-ng, as espeakng-loader brings it; DataError where it is not installed."""

    def __init__(self) -> None:
        import numpy

        try:
            import espeakng_loader
        except ImportError:
            raise DataError(MISSING) from None
        self._library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
        path = str(espeakng_loader.get_data_path()).encode()
        self._rate = self._library.espeak_Initialize(2, 0, path, 0)  # 2: samples are given to a function
        self._samples: list[numpy.ndarray] = []

        def hear(samples: Any, count: int, events: Any) -> int:
            if samples and count:
                self._samples.append(numpy.ctypeslib.as_array(samples, (count,)).copy())
            return 0

        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(hear)  # held, or it would be freed
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: str, words_a_minute: int, pitch: int) -> numpy.ndarray:
        """A text as samples, shape ``(samples,)``, at 16 kHz, float32."""
        import numpy

        self._samples.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise DataError(f"espeak-ng has no voice {voice}; install espeakng-loader once more")
        for parameter, value in ((1, words_a_minute), (3, pitch)):
            self._library.espeak_SetParameter(parameter, value, 0)
        content = text.encode()
        self._library.espeak_Synth(content, len(content) + 1, 0, 0, 0, 1, None, None)  # 1: the text is UTF-8
        self._library.espeak_Synchronize()
        return resampled((numpy.concatenate(self._samples) / 32768).astype("float32"), self._rate)

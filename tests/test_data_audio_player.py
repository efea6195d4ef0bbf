"""Clips to listen to in a saved notebook."""

from __future__ import annotations

import sys

import numpy
import pytest

from peft_nb.data.audio.clip import clip
from peft_nb.data.audio.player import compressed, data_uri
from tests import speech


@pytest.mark.parametrize("installed", [True, False])
def test_a_clip_is_small_and_sounds_the_same(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = speech.sound("mid", seconds=3)
    with monkeypatch.context() as without:
        if not installed:
            without.setitem(sys.modules, "soundfile", None)
        uri = data_uri(compressed(samples))
    assert uri.startswith(f"data:audio/{'mpeg' if installed else 'wav'};base64,")
    assert len(uri) < 40_000
    heard = clip(uri).open()[1_000:33_000]
    spectrum = numpy.abs(numpy.fft.rfft(heard))
    assert spectrum.argmax() * 16_000 / len(heard) == pytest.approx(440, abs=3)

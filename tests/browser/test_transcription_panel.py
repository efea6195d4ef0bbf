"""A voice is recorded by the browser and reaches the kernel; where it cannot be, the button says so."""

from __future__ import annotations

import re
from textwrap import dedent

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Open
from tests.browser.lab import SECONDS, run_next, violations

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

CELL = dedent("""\
    import numpy
    from peft_nb.ui.panels.transcription import TranscriptionPanel
    from peft_nb.ui.transcription import Heard, Transcription

    class Counting(Transcription):
        def __init__(self):
            self.heard = []

        def ask(self, clip):
            tone = numpy.abs(numpy.fft.rfft(clip["array"])).argmax() * clip["sampling_rate"] / len(clip["array"])
            self.heard.append(Heard("", f"{len(clip['array'])} samples of {round(tone, -1):.0f} Hz", "", 1.0))
            return self.heard[-1]

    TranscriptionPanel(Counting())""")
# What stands for a microphone: the browser has none, and records a tone as it would a voice.
TONE = """() => {
    const sound = new AudioContext(), tone = sound.createOscillator(), out = sound.createMediaStreamDestination();
    tone.frequency.value = 500;
    tone.connect(out);
    tone.start();
    navigator.mediaDevices.getUserMedia = async () => out.stream;
}"""


def test_a_voice_is_recorded_and_without_a_microphone_the_button_says_so(opened: Open) -> None:
    page = opened([CELL, "1"])
    cell = run_next(page, 0)
    cell.get_by_role("button", name="Record").click()
    expect(cell.get_by_role("status").first).to_contain_text("pload a clip", timeout=SECONDS)
    page.evaluate(TONE)
    cell.get_by_role("button", name="Record").click()
    expect(cell.get_by_role("button", name="Stop recording")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(800)
    assert violations(page, ".peft-nb") == []
    cell.get_by_role("button", name="Stop recording").click()
    expect(cell.locator("section")).to_contain_text(
        re.compile(r"1?\d,?\d{3} samples of (490|500|510) Hz"), timeout=SECONDS
    )
    expect(cell.get_by_role("status").first).to_contain_text("s recorded")

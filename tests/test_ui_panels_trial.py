from __future__ import annotations

import threading

from peft_nb.ui.panels.trial import TrialPanel
from peft_nb.ui.trial import Trial
from tests.test_ui_trial import classifier
from tests.widgets import button_of, words_of


def settled(panel: TrialPanel) -> str:
    """What the panel says once its work is done."""
    for thread in threading.enumerate():
        if thread.name.startswith("peft_nb-"):
            thread.join(20)
    return str(panel._outcome.value)


def test_a_text_is_classified_and_shown_with_its_probabilities() -> None:
    panel = TrialPanel(Trial(classifier(label=["wish"], probability=[0.75], bug=[0.25], wish=[0.75])))
    button_of(panel.box, "Try it").click()
    assert "no text was given" in settled(panel)
    panel.input.value = "<b>Please add dark mode"
    button_of(panel.box, "Try it").click()
    assert "wish (75%), after" in settled(panel)
    assert "75.0%" in words_of(panel.box)
    assert "&lt;b&gt;Please" in words_of(panel.box)

from __future__ import annotations

from pathlib import Path

import peft_nb
from peft_nb import Run
from peft_nb.ui.panels.router import RouterPanel
from tests.test_ui_panels_trial import settled
from tests.widgets import button_of, words_of


def test_prompts_are_tried_and_rows_routed(kinds: dict[str, Run], encoder: Path) -> None:
    panel = peft_nb.route(*kinds.values(), encoder=str(encoder)).panel
    assert isinstance(panel, RouterPanel)
    assert "router to fruit, tool: 0 prompts routed" in words_of(panel.box)
    panel.prompt.value = "plum fig apple"
    assert "nearest rows" in settled(panel)
    assert "plum fig apple" in panel.state.value
    button_of(panel.box, "Confusion matrix").click()
    assert "12 evaluation rows routed" in settled(panel)
    assert "Confusion matrix" in panel.state.value

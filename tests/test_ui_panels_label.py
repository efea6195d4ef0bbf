from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import peft_nb
from peft_nb import Labels, Run
from peft_nb.ui.panels.label import LabelPanel
from tests.test_runs_compare import Page
from tests.test_runs_labelling import topics  # noqa: F401
from tests.test_ui_panels_trial import settled
from tests.widgets import button_of, published, words_of


@pytest.fixture
def panel(topics: Run, encoder: Path, labelled: list[dict[str, str]], tmp_path: Path) -> LabelPanel:  # noqa: F811
    pool = [row["text"] for row in labelled[40:80]]
    how: dict[str, Any] = {"budget": 5, "by": "ann", "encoder": str(encoder), "out": tmp_path / "labelled"}
    found = peft_nb.label(pool, topics, **how).panel
    assert isinstance(found, LabelPanel)
    return found


def key(panel: LabelPanel, pressed: str, row: str | None = None) -> None:
    """Press a key as the front end tells it."""
    shown = panel.item.key if panel.item else ""
    panel.sheet._handle_custom_msg({"key": pressed, "row": shown if row is None else row}, [])


def answers(panel: LabelPanel) -> list[str]:
    return [one.answer for one in panel.labels.labelling.decisions.current().values()]


def test_a_row_is_labelled_by_one_key(panel: LabelPanel) -> None:
    first = panel.item
    assert first
    key(panel, "enter")
    assert answers(panel) == [first.guess]
    second = panel.item
    assert second
    assert second.key != first.key
    key(panel, "2")
    assert answers(panel)[-1] == panel.labels.labelling.classes[1]
    key(panel, "1", row=first.key)  # a key that was meant for a row that is gone
    assert len(answers(panel)) == 2
    key(panel, " ")
    assert panel.labels.labelling.counts()["skipped"] == 1
    for _ in range(2):
        key(panel, "backspace", row="")
    assert panel.item == second
    key(panel, "z")  # which no class has
    assert len(answers(panel)) == 1


def test_another_class_is_written_and_a_wrong_one_refused(panel: LabelPanel) -> None:
    panel.written.value = "frut"
    assert "there is no class &#x27;frut&#x27;; did you mean" in panel._outcome.value
    assert answers(panel) == []
    panel.written.value = "+fish"
    assert answers(panel) == ["fish"]
    assert panel.written.value == ""
    panel.sheet._handle_custom_msg({"name": "tool", "row": panel.item.key if panel.item else ""}, [])
    assert answers(panel) == ["fish", "tool"]


def test_the_page_below_keeps_what_was_decided_and_training_starts_from_it(panel: LabelPanel) -> None:
    with published() as shown:
        panel.result = panel.labels
        panel._ipython_display_()
        while panel.item:
            button_of(panel.box, "Accept").click()
        assert "5 of 5 rows labelled by ann" in Page(shown[-1]["text/html"]).text
    assert "retrain topics with these rows" in panel.sheet.value
    button_of(panel.box, "Accept").click()
    assert "all 5 rows are done" in panel._outcome.value
    button_of(panel.box, "Curve").click()
    assert "5 labelled rows are too few for a curve" in settled(panel)
    button_of(panel.box, "Retrain").click()
    assert "is trained: accuracy" in settled(panel)
    assert "topics v" in panel._outcome.value


def test_an_answer_is_chosen_or_written(kinds: dict[str, Run], encoder: Path, tmp_path: Path) -> None:
    pool = ["plum fig", "fig apple apple"]
    labels = peft_nb.label(pool, kinds["fruit"], budget=2, by="ann", encoder=str(encoder), out=tmp_path / "labelled")
    assert isinstance(labels, Labels)
    panel = labels.panel
    settled(panel)
    assert panel.item
    assert panel.written.value == panel.item.guess
    panel.written.value = "It is fruit."
    button_of(panel.box, "Use the answer").click()
    button_of(panel.box, "Accept").click()  # of a row that is not shown yet
    settled(panel)
    assert answers(panel) == ["It is fruit."]
    assert len(labels.pairs) == len([one for one in labels.decisions.rejected[0] if one])
    choice = panel.item.answers[-1]
    key(panel, str(len(panel.item.answers)))
    settled(panel)
    assert answers(panel)[-1] == choice
    assert "Curve" not in words_of(panel.box)
    assert panel.item is None

"""Rows are labelled by keyboard alone; what stands for the model here is a table, the folder of decisions is real."""

from __future__ import annotations

import re
from textwrap import dedent

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Open
from tests.browser.lab import SECONDS, go_to, run_next, shot, violations

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

CELL = dedent("""\
    import tempfile
    from pathlib import Path
    from types import SimpleNamespace
    from peft_nb import Labels
    from peft_nb.data.decisions import Decisions, key_of
    from peft_nb.runs.labelling import Labelling, Similar

    class Told(Labelling):
        def __init__(self):
            self.folder, self.by, self.strategy, self.version = Path(tempfile.mkdtemp()), "ann", "both", "topics v1"
            self.classes, self.notes, self.curve_found = ["card lost", "card stolen", "fee"], [], None
            self.run = SimpleNamespace(spec=SimpleNamespace(name="topics", method="lora"), id="lora-1")
            texts = ["my card is gone since Monday", "what does <b>this</b> cost", "a thief has my card", "why a fee"]
            self.queue = [{"key": key_of(text), "prompt": text, "why": "both"} for text in texts]
            sure = dict(zip(self.classes, (0.6, 0.3, 0.1)))
            self._guesses = {row["key"]: ("card lost", 0.6, sure) for row in self.queue}
            self.decisions = Decisions(self.folder, lambda one: {"text": one.prompt, "label": one.answer})

        def _similar(self, key):
            return (Similar("I lost my card", "card lost", 0.91),)

    Labels(Told())""")


def test_rows_are_labelled_by_keyboard_alone(opened: Open) -> None:
    page = opened([CELL, "1"])
    cell = run_next(page, 0)
    row = cell.locator(".peft-nb-label [role=group]")
    expect(row).to_contain_text("my card is gone since Monday", timeout=SECONDS)
    expect(cell.get_by_text(re.compile("0 of 4 rows labelled")).first).to_be_visible()
    assert violations(page, ".peft-nb") == []
    shot(page, cell, "label")
    page.locator(".jp-Cell").nth(0).click()
    page.locator(".jp-Notebook").focus()
    go_to(page, row)
    page.keyboard.press("Enter")
    expect(row).to_contain_text("row 2 of 4")
    expect(row).to_be_focused()
    page.keyboard.press("3")
    expect(row).to_contain_text("row 3 of 4")
    page.keyboard.press("Space")
    expect(row).to_contain_text("why a fee")
    page.keyboard.press("Backspace")
    expect(row).to_contain_text("a thief has my card")
    expect(cell.get_by_text(re.compile("2 of 4 rows labelled by ann, 1 as guessed, 0 skipped")).first).to_be_visible()
    page.keyboard.press("/")
    expect(cell.get_by_label("Class")).to_be_focused()
    page.keyboard.type("card stolen")
    page.keyboard.press("Enter")
    expect(row).to_contain_text("why a fee")
    row.get_by_role("button", name="fee").click()
    expect(row).to_contain_text("retrain topics with these rows")
    expect(page.locator(".jp-Cell")).to_have_count(2)  # no key reached JupyterLab

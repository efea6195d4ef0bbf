"""A notebook with every kind of panel, saved and opened again without its kernel, in a real JupyterLab."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open
from tests.browser.lab import SECONDS, run_next, shot
from tests.reopened import CELLS, WRONG, cells_of

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def page(opened: Open, base: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    store = str(tmp_path_factory.mktemp("store"))
    return opened([f"import os\nos.environ['PEFT_NB_STORE'] = {store!r}", *cells_of(base, encoder)])


def test_each_panel_leaves_its_page_and_no_error(page: Page) -> None:
    run_next(page, 0)
    for number, cell in enumerate(CELLS, 1):
        output = run_next(page, number)
        prompt = page.locator(".jp-Cell").nth(number).locator(".jp-InputPrompt")
        expect(prompt).to_have_text(re.compile(r"\[\d+\]"), timeout=SECONDS)
        if cell.startswith("%%peft"):
            expect(output).to_contain_text("finished", timeout=SECONDS)
    page.keyboard.press("Escape")
    page.keyboard.press("Control+s")
    page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")
    page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.reload()
    expect(page.locator(".jp-Notebook-ExecutionIndicator")).to_be_attached(timeout=SECONDS)
    for number, (cell, wanted) in enumerate(CELLS.items(), 1):
        output = page.locator(".jp-Cell").nth(number).locator(".jp-Cell-outputWrapper")
        output.scroll_into_view_if_needed(timeout=SECONDS)
        for words in wanted:
            expect(output).to_contain_text(words, use_inner_text=True, timeout=10_000)
        seen = output.inner_text()
        assert [words for words in WRONG if words in seen] == [], (cell, seen)
        if wanted:
            shot(page, output, f"reopened-{number}", (480,))

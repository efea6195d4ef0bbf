"""A cell is inserted below, in JupyterLab and Notebook 7, also in a notebook that is not trusted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.lab import SECONDS, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


@pytest.fixture(params=["lab/tree", "notebooks"])
def page(request: pytest.FixtureRequest, lab: tuple[str, Path], browser: Browser) -> Iterator[Page]:
    """A notebook whose second cell has an output that somebody else made."""
    address, folder = lab
    code = "from peft_nb.ui.panels.insert_cell import InsertCell\nInsertCell(cell='%%peft lora\\nr: 4\\n')"
    output = nbformat.v4.new_output("display_data", {"text/html": "<b>old</b>"})
    cells = [nbformat.v4.new_code_cell(code), nbformat.v4.new_code_cell("1", outputs=[output])]
    known = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    name = f"foreign-{request.param.replace('/', '-')}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=known), folder / name)
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(f"{address}/{request.param}/{name}")
    expect(page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first).to_be_attached(timeout=SECONDS)
    yield page
    page.close()


def test_what_is_refused_is_said_and_what_is_allowed_is_inserted_after_one_question(page: Page) -> None:
    cells, question = page.locator(".jp-Cell"), page.locator(".jp-Dialog")

    def ran() -> bool:
        cells.first.click()
        page.keyboard.press("Control+Enter")
        page.wait_for_timeout(500)
        return cells.first.get_by_role("button", name="Insert below").is_visible()

    until(page, ran)  # the notebook takes no keys while it settles
    press = cells.first.get_by_role("button", name="Insert below")
    press.click()
    question.get_by_role("button", name="Cancel").click()
    expect(cells.first.get_by_role("status")).to_contain_text("new", timeout=SECONDS)
    expect(cells).to_have_count(2)
    press.click()
    question.get_by_role("button", name="Run Once").click()
    expect(cells).to_have_count(3)
    expect(cells.nth(1).locator(".cm-line")).to_have_text(["%%peft lora", "r: 4"], timeout=SECONDS)
    expect(question).to_have_count(0)
    expect(cells.first.get_by_role("status")).to_have_text("")

"""A run is described in a form, seen as a cell, and started, in a real JupyterLab, by keyboard alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Open
from tests.browser.lab import SECONDS, run_next, shot, themed, until, violations

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

BROKEN_IN = "<script>document.title = 'broken in'</script><img src=x onerror=\"document.title = 1\">"
HOSTILE = f"{BROKEN_IN} مرحبا 👩 {'w' * 300}"
CELLS = [
    "%load_ext peft_nb\n"
    "import pandas as pd\n"
    "tickets = pd.DataFrame({'question': [f'How much is <b>{n}</b> and {n}?' for n in range(40)],\n"
    "                        'answer': [f'It is {2 * n}.' for n in range(40)]})\n"
    "open('tiny.yaml', 'w').write('model: {base}\\nmax_steps: 60\\ndevice: cpu\\njudge: quick')",
    "%peft panel tiny.yaml",
]


@pytest.fixture(scope="module")
def page(opened: Open, base: Path) -> Page:
    return opened([cell.replace("{base}", str(base)) for cell in CELLS])


def retype(page: Page, control: Locator, text: str) -> None:
    expect(control).to_be_visible()  # what a search has not shown yet takes no focus, and what is typed goes elsewhere
    control.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type(text)


def test_a_run_is_described_and_started(page: Page) -> None:
    run_next(page, 0)
    output = run_next(page, 1)
    panel = output.locator(".peft-nb").first
    cell = panel.get_by_label("equivalent cell")
    expect(cell).to_have_value(re.compile("%%peft lora --data tickets --out run\nmodel: "), timeout=SECONDS)
    expect(panel).to_contain_text("columns question, answer", timeout=SECONDS)
    expect(panel).to_contain_text("Trains on 36 rows in 60 steps", timeout=SECONDS)

    retype(page, panel.get_by_label("search", exact=True), "rank")
    retype(page, panel.get_by_label("r", exact=True), "many")
    expect(panel.get_by_role("alert")).to_contain_text("'many' is not a finite number")
    expect(panel.get_by_label("r: error", exact=True)).to_be_focused()
    expect(cell).to_have_value("")
    retype(page, panel.get_by_label("r: error", exact=True), "4")
    expect(panel.get_by_role("alert")).to_have_count(0)
    expect(cell).to_have_value(re.compile("r: 4"))
    retype(page, panel.get_by_label("save result as", exact=True), "run")
    expect(cell).to_have_value(re.compile("--out run"))

    retype(page, panel.get_by_label("search", exact=True), " ")
    for fold in ("Advanced: performance", "Estimate", "Data report"):
        panel.get_by_role("button", name=fold).focus()
        page.keyboard.press("Enter")
        expect(panel.get_by_role("button", name=f"▼ {fold}")).to_be_visible()
    shot(page, output, "config", height=4500)
    for theme in ("Light", "Dark"):
        themed(page, theme)
        assert violations(page, ".peft-nb") == []

    panel.get_by_role("button", name="Start").focus()
    page.keyboard.press("Space")
    expect(panel).to_contain_text("has started", timeout=SECONDS)
    expect(panel).to_contain_text("%peft save run", timeout=SECONDS)
    expect(panel.get_by_role("status").filter(has_text="finished").first).to_be_visible()
    shot(page, output, "config-ended", height=4500)
    assert violations(page, ".peft-nb") == []

    cells = page.locator(".jp-Cell")
    before = cells.count()
    panel.get_by_role("button", name="Insert below").focus()
    page.keyboard.press("Enter")
    expect(cells).to_have_count(before + 1)
    inserted = cells.nth(2)
    expect(inserted).to_contain_text("%%peft lora --data tickets --out run")
    expect(inserted).to_contain_text("r: 4")


def test_what_is_pressed_in_the_panel_stays_there(page: Page) -> None:
    panel, cells = page.locator(".peft-nb").first, page.locator(".jp-Cell")
    number = cells.count()
    method = panel.get_by_label("method", exact=True)
    method.focus()
    before = method.input_value()
    page.keyboard.press("ArrowDown")
    expect(method).not_to_have_value(before)
    page.keyboard.type("bit")
    expect(panel.get_by_label("equivalent cell")).to_have_value(re.compile("%%peft bitfit"))
    for control in (method, panel.get_by_role("button", name="Start"), panel.get_by_role("checkbox").first):
        control.focus()
        for key in ("b", "a", "d", "d", "x", "m"):
            page.keyboard.press(key)
    page.keyboard.press("Control+s")
    page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")
    expect(cells).to_have_count(number)  # what the keys before would have done is done by now
    page.keyboard.press("Escape")
    expect(cells.nth(1)).to_be_focused()
    expect(cells.nth(1)).to_have_class(re.compile("jp-mod-active"))
    page.keyboard.press("ArrowDown")
    expect(cells.nth(2)).to_have_class(re.compile("jp-mod-active"))


def test_hostile_words_change_nothing_but_text(page: Page) -> None:
    panel = page.locator(".peft-nb").first
    retype(page, panel.get_by_label("search", exact=True), "system")
    system = panel.get_by_label("system", exact=True)
    retype(page, system, HOSTILE)
    retype(page, panel.get_by_label("save result as", exact=True), HOSTILE)
    expect(panel.get_by_role("alert")).to_contain_text("not a name for a variable")
    retype(page, panel.get_by_label("save result as: error", exact=True), "run")
    expect(panel.get_by_label("equivalent cell")).to_have_value(re.compile("<script>"))
    assert page.title().startswith("desk")
    for width in (480, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        until(page, lambda: panel.evaluate("node => node.scrollWidth <= node.clientWidth"))


def test_the_kernel_knows_whether_a_form_is_seen(opened: Open) -> None:
    form = "%load_ext peft_nb\nfrom peft_nb.ui.panels.config import ConfigPanel\nform = ConfigPanel()\nform"
    page = opened([form, "print('seen', form._keyboard.views, form.closed)", "print('then', form.closed)"])
    output = run_next(page, 0)
    expect(output.locator(".peft-nb").first).to_be_visible(timeout=SECONDS)
    expect(run_next(page, 1)).to_contain_text("seen 1 False")
    page.evaluate("jupyterapp.commands.execute('notebook:move-cursor-up')")
    page.evaluate("jupyterapp.commands.execute('notebook:move-cursor-up')")
    page.evaluate("jupyterapp.commands.execute('notebook:clear-cell-output')")
    expect(output.locator(".peft-nb")).to_have_count(0)
    page.evaluate("jupyterapp.commands.execute('notebook:move-cursor-down')")
    page.evaluate("jupyterapp.commands.execute('notebook:move-cursor-down')")
    expect(run_next(page, 2)).to_contain_text("then True")

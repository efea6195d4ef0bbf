"""A sweep is watched, drawn by other numbers and stopped in a real JupyterLab, by keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open
from tests.browser.lab import SECONDS, go_to, run_next, shot, still, violations
from tests.browser.test_compare_panel import outside

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

SETUP = """%load_ext peft_nb
rows = [{'question': f'How much is {n} and {n}?', 'answer': f'It is {2 * n}.'} for n in range(40)]"""
CELL = """%%peft --data rows --trials TRIALS --out best
model: {base}
batch_size: 5
max_steps: STEPS
judge: off
dtype: float32
sweep: {learning_rate: {low: 1e-4, high: 3e-2, log: true}, r: [2, 8], method: [lora, ia3]}"""


@pytest.fixture(scope="module")
def page(opened: Open, base: Path) -> Page:
    short = CELL.replace("TRIALS", "5").replace("STEPS", "9").replace("{base}", str(base))
    long = CELL.replace("TRIALS", "5 --background").replace("STEPS", "4000").replace("{base}", str(base))
    return opened([SETUP, short, "best.status, best.spec.r", long, "%peft sweep"])


def test_a_sweep_is_watched_and_stopped(page: Page) -> None:
    run_next(page, 0)
    panel = run_next(page, 1).locator(".peft-nb").first
    expect(panel).to_contain_text("finished, 5 trials", timeout=SECONDS)
    expect(panel.get_by_role("region", name="trials").get_by_role("row")).to_have_count(6)
    expect(panel.get_by_role("img").first).to_be_visible()
    expect(run_next(page, 2)).to_contain_text("('finished',")

    x = panel.get_by_role("combobox", name="Scatter: x")
    x.select_option("seconds")
    expect(panel.locator("svg[aria-label*='eval loss by seconds of work of']").last).to_be_visible()
    assert violations(page, ".peft-nb") == []
    shot(page, panel, "sweep-panel", widths=(1280, 480))
    page.set_viewport_size({"width": 480, "height": 900})
    still(page)
    assert outside(panel) == []
    page.set_viewport_size({"width": 1200, "height": 900})

    page.locator(".jp-Cell").nth(3).locator(".jp-InputPrompt").click()
    working = run_next(page, 3).locator(".peft-nb").first
    expect(working).to_contain_text("step", timeout=SECONDS)
    working.locator("select").last.focus()
    go_to(page, working.get_by_role("button", name="Stop"), "Shift+Tab")
    page.keyboard.press("Enter")
    expect(working).to_contain_text("stopped", timeout=SECONDS)
    expect(working.get_by_role("button", name="Resume")).to_be_enabled(timeout=SECONDS)

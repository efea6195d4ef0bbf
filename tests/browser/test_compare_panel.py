"""Runs are compared, voted on blindly, promoted and talked to, in a real JupyterLab, almost all by keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Open
from tests.browser.lab import SECONDS, run_next, shot, still, violations

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CELLS = [
    """%load_ext peft_nb
import peft_nb
rows = [{'question': f'How much is {n} and {n}?', 'answer': f'It is {2 * n}.'} for n in range(40)]
usual = {'data': rows, 'model': '{base}', 'learning_rate': 0.01, 'judge': 'off', 'batch_size': 5}
calm = peft_nb.train(name='calm', max_steps=40, eval_steps=10, **usual)
short = peft_nb.train(name='short', max_steps=15, eval_steps=5, **usual)
asked = ['<script>document.title = "broken in"</script><img src=x onerror="document.title = 1"> How much is 3 and 3?',
         'مرحبا 👩‍🔧 ' + 'w' * 300, 'How much is 4 and 4?\\nSay it in one line.']""",
    "%peft compare calm short base --prompts asked --out found",
    "found.tally['of'].max(), calm.version",
    "%peft chat calm short --out talk",
    "talk.messages()[0], len(talk.turns), kept == talk.messages()",
]
LOAD, COMPARE, COUNT, CHAT, SAID = range(len(CELLS))


@pytest.fixture(scope="module")
def page(opened: Open, base: Path) -> Page:
    return opened([cell.replace("{base}", str(base)) for cell in CELLS])


def outside(panel: Locator) -> list[str]:
    """What of a panel lies beyond its right edge, unless it is in a part that scrolls by itself."""
    return panel.evaluate(
        """panel => [...panel.querySelectorAll('*')]
            .filter(one => !one.closest('svg') && !one.closest('[role=region]') && !one.closest('select'))
            .filter(one => one.getBoundingClientRect().right > panel.getBoundingClientRect().right + 1)
            .map(one => one.outerHTML.slice(0, 200))"""
    )


def go(page: Page, panel: Locator, role: str, name: str, key: str = "Tab") -> None:
    """Step with the keyboard until a control of the panel has the focus."""
    wanted = panel.get_by_role(role, name=name, exact=True)  # type: ignore[arg-type]
    for _ in range(40):
        if wanted.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press(key)
    raise AssertionError(f"the keyboard does not reach {name}")


def run_selected(page: Page, number: int) -> Locator:
    """Select a cell, after the keyboard was in the output of another, and run it."""
    page.locator(".jp-Cell").nth(number).locator(".jp-InputPrompt").click()
    return run_next(page, number)


def test_runs_are_compared_voted_on_and_promoted(page: Page) -> None:
    run_next(page, LOAD)
    output = run_next(page, COMPARE)
    panel = output.locator(".peft-nb").first
    expect(panel).to_contain_text("eval loss", timeout=SECONDS)
    expect(panel.get_by_role("slider")).to_have_count(2)  # train and eval loss
    expect(panel.get_by_role("slider").first.locator("canvas")).to_be_visible()
    expect(panel).to_contain_text("How much is 3 and 3?")
    assert violations(page, ".peft-nb") == []
    shot(page, panel, "compare-panel", height=2400)

    panel.get_by_role("combobox", name="Prompt").focus()
    go(page, panel, "button", "Next")
    page.keyboard.press("Enter")
    expect(panel.get_by_role("status")).to_have_text("prompt 2 of 3")
    go(page, panel, "checkbox", "Blind vote")
    page.keyboard.press("Space")
    answers = panel.locator("section")
    expect(answers).not_to_contain_text("calm")
    for _ in range(3):
        go(page, panel, "button", "A is best")
        before = panel.get_by_role("status").inner_text()
        shot(page, panel, "compare-panel-blind", height=2400) if "2 of 3" in before and "voted" not in before else None
        page.keyboard.press("Enter")
        expect(panel.get_by_role("status")).not_to_have_text(before)
        panel.get_by_role("combobox", name="Prompt").focus()
    expect(panel.get_by_role("status")).to_contain_text("the votes are counted")
    expect(panel).to_contain_text("of 3: ")
    expect(panel.get_by_role("region", name="win rates")).to_contain_text("win rate (95 % interval)")
    expect(answers).to_contain_text("calm")

    go(page, panel, "button", "Promote")
    page.keyboard.press("Enter")
    expect(panel.get_by_role("alert")).to_contain_text("needs a reason", timeout=10_000)
    panel.get_by_role("textbox", name="Reason").focus()
    page.keyboard.type("fewer mistakes")
    go(page, panel, "button", "Promote")
    page.keyboard.press("Enter")
    expect(panel.get_by_role("status")).to_contain_text("calm@production: (none) → v1", timeout=10_000)
    assert violations(page, ".peft-nb") == []
    shot(page, panel, "compare-panel-voted", height=2400)
    page.set_viewport_size({"width": 560, "height": 900})
    still(page)
    assert outside(panel) == []
    page.set_viewport_size({"width": 1200, "height": 900})
    expect(run_selected(page, COUNT)).to_contain_text("calm v1", timeout=SECONDS)
    assert page.title().startswith("desk")
    assert panel.locator('img[src="x"]').count() == 0


def test_adapter_and_base_are_talked_to(page: Page) -> None:
    output = run_selected(page, CHAT)
    panel = output.locator(".peft-nb").first
    field = panel.get_by_role("textbox", name="Message")
    expect(field).to_be_visible(timeout=SECONDS)
    field.focus()
    page.keyboard.type("How much is <b>3</b> and 3?")
    page.keyboard.press("Enter")
    expect(panel.get_by_role("status")).to_contain_text("answered after", timeout=SECONDS)
    expect(field).to_have_value("")
    expect(field).to_be_focused()
    said = panel.get_by_role("region", name="conversation")
    expect(said).to_contain_text("How much is <b>3</b> and 3?")
    expect(said.locator("bdi")).to_have_text(["calm", "base"])

    go(page, panel, "button", "👎 Bad answer", "Shift+Tab")  # from the message below it
    page.keyboard.press("Enter")
    expect(said.locator("section")).to_contain_text("calm (rated bad)")
    go(page, panel, "button", "👍 Good answer", "Shift+Tab")
    page.keyboard.press("Enter")
    expect(panel.get_by_role("status")).to_contain_text("the answer of calm is rated good")
    expect(said.locator("section")).to_contain_text("calm (rated good)")

    panel.get_by_role("spinbutton", name="Max new tokens").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("1500")
    panel.get_by_role("combobox", name="Adapter").select_option("short")  # JupyterLab takes the arrow keys for itself
    field.focus()
    page.keyboard.type('<script>document.title = "broken in"</script> مرحبا 👩‍🔧 ' + "w" * 200)
    page.keyboard.press("Enter")
    expect(said.locator("bdi")).to_have_text(["calm", "base", "short", "base"], timeout=SECONDS)
    before = said.inner_text()
    expect(said).not_to_have_text(before, use_inner_text=True)
    go(page, panel, "button", "Stop")
    page.keyboard.press("Enter")
    expect(panel.get_by_role("status")).to_contain_text("stopped after", timeout=10_000)
    go(page, panel, "textbox", "Variable")
    page.keyboard.press("Control+a")
    page.keyboard.type("kept")
    go(page, panel, "button", "Keep")
    page.keyboard.press("Enter")
    expect(panel.get_by_role("status")).to_contain_text("kept holds 4 messages", timeout=10_000)
    assert violations(page, ".peft-nb") == []
    shot(page, panel, "chat-panel")
    page.set_viewport_size({"width": 560, "height": 900})
    still(page)
    assert outside(panel) == []
    page.set_viewport_size({"width": 1200, "height": 900})
    expect(run_selected(page, SAID)).to_contain_text("<b>3</b>", timeout=SECONDS)
    assert "2, True" in page.locator(".jp-Cell").nth(SAID).locator(".jp-Cell-outputArea").inner_text()
    assert page.title().startswith("desk")
    assert panel.locator('img[src="x"]').count() == 0

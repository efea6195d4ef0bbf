"""A run in its panel in a real JupyterLab: watched, stopped, resumed and saved by keyboard, reopened later."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Open
from tests.browser.lab import SECONDS, run_next, shot, themed, until, violations

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

EVIL = '<script>document.title = "broken in"</script><img src=x onerror="document.title = 1"> مرحبا 👩‍🔧 ' + "w" * 300
CELLS = [
    "%load_ext peft_nb\n"
    f"evil = {EVIL!r}\n"
    "tickets = [{'question': f'{evil} How much is {n} and {n}?', 'answer': f'It is <b>{2 * n}</b>.'}"
    " for n in range(40)]",
    "%%peft lora --data tickets --out run\nmodel: {base}\nmax_steps: 100000\nlearning_rate: 0.001\neval_steps: 50\n"
    "judge: off",
    "%load_ext peft_nb",
    "%peft show",
    "1 + 1",
]
LOAD, TRAIN, AGAIN, SHOW = range(4)


@pytest.fixture(scope="module")
def page(opened: Open, base: Path) -> Page:
    return opened([cell.replace("{base}", str(base)) for cell in CELLS])


def back_to(page: Page, name: str, role: str = "button") -> None:
    """Go backwards with the keyboard until a control has the focus."""
    wanted = page.locator(".jp-Cell").nth(TRAIN).get_by_role(role, name=name, exact=True)
    for _ in range(40):
        if wanted.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Shift+Tab")
    raise AssertionError(f"the keyboard does not reach {name}")


def newest(panel: Locator) -> str:
    """What the legend says of the train loss."""
    return panel.get_by_role("button", name="train loss").inner_text()


def hover(page: Page, panel: Locator) -> None:
    """Rest the pointer on the chart: the values of both curves there are said beside their names."""
    plot = panel.get_by_role("slider", name="loss")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(panel.locator(".peft-nb-step")).to_have_text(re.compile(r"step [\d,]+"))
    expect(panel.get_by_role("button", name="train loss")).to_have_text(re.compile(r"\d\.\d{3} \(logged \d\.\d{3}\)"))
    expect(panel.get_by_role("button", name="eval loss")).to_have_text(re.compile(r"\d\.\d{3}"))
    page.mouse.move(0, 0)
    expect(panel.locator(".peft-nb-step")).to_have_text("")


def move(page: Page, panel: Locator) -> None:
    """Step through the chart with arrow keys; it says where it is and what the values are."""
    plot = panel.get_by_role("slider", name="loss")
    plot.focus()
    page.keyboard.press("Home")
    expect(plot).to_have_attribute("aria-valuetext", re.compile("^step 0, train loss .*, eval loss "))
    page.keyboard.press("ArrowRight")
    expect(plot).to_have_attribute("aria-valuetext", re.compile("^step 1, train loss "))
    expect(panel.locator(".peft-nb-step")).to_have_text("step 1")


def check(page: Page, panel: Locator, name: str, widths: tuple[int, ...]) -> None:
    """Take pictures; nothing is beyond the edge of the narrowest, and axe finds nothing in either theme."""
    shot(page, panel, name, widths, 1600)
    page.set_viewport_size({"width": min(widths), "height": 900})
    until(page, lambda: panel.evaluate("panel => panel.scrollWidth <= panel.clientWidth"))
    page.set_viewport_size({"width": 1200, "height": 900})
    for theme in ("Light", "Dark"):
        themed(page, theme)
        assert violations(page, ".peft-nb") == []


def step(panel: Locator) -> int:
    return int(re.search(r"step ([\d,]+) of 100,000", panel.inner_text())[1].replace(",", ""))


def test_a_run_is_watched_stopped_by_keyboard_while_its_cell_blocks_resumed_and_saved(page: Page) -> None:
    run_next(page, LOAD)
    output = run_next(page, TRAIN)
    panel = output.locator(".peft-nb").first
    expect(panel).to_contain_text("tokens/s", timeout=SECONDS)
    expect(panel.get_by_role("progressbar")).to_be_visible()
    before, first = newest(panel), step(panel)
    until(page, lambda: newest(panel) != before and step(panel) > first)
    expect(panel).to_contain_text("expected")  # sample answers
    shot(page, panel, "run-panel-running", (1280, 480))

    hover(page, panel)
    move(page, panel)
    assert page.locator(".jp-Cell").nth(TRAIN).locator(".jp-InputPrompt").inner_text() == "[*]:"
    back_to(page, "Stop")
    page.keyboard.press("Enter")
    expect(panel).to_contain_text("stopped: after step", timeout=SECONDS)
    expect(panel).to_contain_text("%peft resume run")
    expect(output.locator(".peft-nb-stays")).to_be_hidden()  # the panel or its page, never both
    assert violations(page, ".peft-nb") == []
    stopped = step(panel)

    page.keyboard.press("Tab")
    expect(panel.get_by_role("button", name="Resume")).to_be_focused()
    page.keyboard.press("Enter")
    expect(panel.get_by_role("button", name="Stop", exact=True)).to_be_enabled(timeout=SECONDS)
    expect(panel).to_contain_text("tokens/s")
    until(page, lambda: step(panel) > stopped)
    expect(output).not_to_contain_text("stopped: after step")  # neither in the panel nor in its page
    back_to(page, "Stop")
    page.keyboard.press("Enter")
    expect(panel).to_contain_text("stopped: after step", timeout=SECONDS)

    back_to(page, "Log scale")
    page.keyboard.press("Space")
    expect(panel.get_by_role("button", name="Log scale")).to_have_attribute("aria-pressed", "true")
    hover(page, panel)
    said = panel.get_by_role("status").first
    back_to(page, "Export")
    page.keyboard.press("Enter")
    expect(said).to_contain_text("choose a format below", timeout=SECONDS)
    panel.get_by_role("combobox", name="Format").select_option("gguf")
    expect(panel.get_by_role("textbox", name="outtype")).to_be_visible()
    check(page, panel, "run-panel-export", (1280, 480))
    for name, told in (("Save", "saved in"), ("Merge", "merged into"), ("Compare", "compared with its base model")):
        back_to(page, name)
        page.keyboard.press("Enter")
        expect(said).to_contain_text(told, timeout=SECONDS)
        page.keyboard.press("Tab")
    expect(panel.get_by_role("checkbox", name="Blind vote")).to_be_visible()
    check(page, panel, "run-panel-compare", (1600, 480))
    back_to(page, "Chat")
    page.keyboard.press("Enter")
    message = panel.get_by_role("textbox", name="Message")
    message.focus()
    page.keyboard.type(EVIL)
    page.keyboard.press("Enter")
    expect(panel.get_by_role("status").last).to_contain_text("answered after", timeout=SECONDS)
    check(page, panel, "run-panel-chat", (1600, 480))
    assert page.title().startswith("desk")
    assert output.locator('img[src="x"]').count() == 0


def test_after_a_restart_the_run_is_reopened_with_its_curves(page: Page) -> None:
    page.evaluate("jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    page.wait_for_function("jupyterapp.shell.currentWidget.sessionContext.session.kernel.status == 'idle'")
    output = page.locator(".jp-Cell").nth(TRAIN).locator(".jp-Cell-outputArea")
    expect(output.locator(".peft-nb").first).to_contain_text("kernel gone: %peft show lora-", timeout=SECONDS)
    expect(output.get_by_role("button", name="Stop", exact=True)).to_be_hidden()
    expect(output.locator(".peft-nb-stays img").first).to_be_visible()
    shot(page, output, "run-panel-restarted", (1280, 480))
    page.locator(".jp-Cell").nth(AGAIN).click()
    page.keyboard.press("Escape")
    run_next(page, AGAIN)
    output = run_next(page, SHOW)
    panel = output.locator(".peft-nb").first
    expect(panel).to_contain_text("stopped", timeout=SECONDS)
    hover(page, panel)
    expect(panel.get_by_role("button", name="Resume")).to_be_enabled()
    expect(output.locator(".peft-nb-stays")).to_be_hidden()
    shot(page, panel, "run-panel-reopened")


def test_without_its_kernel_the_notebook_shows_the_summary_alone(page: Page) -> None:
    page.keyboard.press("Control+s")
    page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")
    page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.reload()
    output = page.locator(".jp-Cell").nth(SHOW)
    expect(output.locator("img")).to_be_visible(timeout=SECONDS)
    expect(output.get_by_text("model not found")).to_be_attached(timeout=SECONDS)
    expect(output.get_by_text("model not found")).to_be_hidden()
    expect(output).to_contain_text("expected")  # the sample answers stay too
    shot(page, output, "run-panel-dead", (1280, 480))

"""A complete session by keyboard alone, in JupyterLab and in Notebook 7: no mouse, and only keys move the focus."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Front, Open
from tests.browser.lab import SECONDS, go_to, run_by_key, run_next

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CELLS = [
    "%load_ext peft_nb\n"
    "tickets = [{'question': f'How much is {n} and {n}?', 'answer': f'It is {2 * n}.'} for n in range(40)]\n"
    "open('keys.yaml', 'w').write('model: {base}\\nmax_steps: 20\\ndevice: cpu\\njudge: off\\nepochs: 1')",
    "%peft",
    "%peft panel keys.yaml",
    "%peft runs",
    "1 + 1",
]
LOAD, START, FORM, RUNS, LAST = range(len(CELLS))
DYING = [
    CELLS[LOAD] + "\nimport os\nprint(os.getpid())",
    "%%peft lora --data tickets --out run --background\n"
    "model: {base}\nmax_steps: 100000\ndevice: cpu\njudge: off\nname: dying",
    "%load_ext peft_nb",
    "%peft runs",
    "%peft panel",
]
ALIVE = "jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status == 'idle'"


def back(page: Page, panel: Locator, name: str, role: str = "button") -> None:
    go_to(page, panel.get_by_role(role, name=name, exact=True).first, "Shift+Tab")


def leave(page: Page, number: int) -> None:
    """Escape returns to the notebook; the arrow goes on to the next cell."""
    cells = page.locator(".jp-Cell")
    page.keyboard.press("Escape")
    expect(cells.nth(number)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(cells.nth(number + 1)).to_be_focused()


@pytest.mark.parametrize("front", ["lab", "notebook"])
def test_a_session(opened: Open, base: Path, front: Front) -> None:
    page = opened([cell.replace("{base}", str(base)) for cell in CELLS], front)
    run_by_key(page, LOAD)
    expect(run_by_key(page, START)).to_contain_text("%%peft lora --data tickets --out run")

    panel = run_by_key(page, FORM).locator(".peft-nb").first
    expect(panel).to_contain_text("Trains on 36 rows in 20 steps", timeout=SECONDS)
    back(page, panel, "method", "combobox")
    page.keyboard.type("lora-p")
    expect(panel.get_by_label("equivalent cell")).to_have_value(re.compile("^%%peft lora-plus "))
    back(page, panel, "data", "combobox")
    page.keyboard.press("Control+A")
    page.keyboard.type("tickets")
    go_to(page, panel.get_by_role("button", name="Start", exact=True))
    page.keyboard.press("Enter")
    expect(panel.get_by_role("status").filter(has_text="finished").first).to_be_visible(timeout=SECONDS)

    for name, told in (("Save", "saved in"), ("Compare", "compared with its base model"), ("Chat", "talk to it below")):
        go_to(page, panel.get_by_role("button", name=name, exact=True).first)
        page.keyboard.press("Enter")
        expect(panel.get_by_role("status").filter(has_text=told).first).to_be_visible(timeout=SECONDS)
        if name == "Compare":
            expect(panel.get_by_role("link", name="metrics.csv")).to_be_visible(timeout=SECONDS)
    go_to(page, panel.get_by_role("textbox", name="Message"))
    page.keyboard.type("How much is 3 and 3?")
    page.keyboard.press("Enter")
    expect(panel.get_by_role("status").filter(has_text="answered after")).to_be_visible(timeout=SECONDS)
    leave(page, FORM)

    panel = run_by_key(page, RUNS).locator(".peft-nb").first
    expect(panel.locator("[data-open]").first).to_be_visible(timeout=SECONDS)
    go_to(page, panel.locator("[data-open]").first, "Shift+Tab")
    page.keyboard.press("Enter")
    expect(panel).to_contain_text("is open below", timeout=SECONDS)
    leave(page, RUNS)
    expect(run_by_key(page, LAST)).to_contain_text(re.compile("2$"))
    assert not re.search(r"Error\b", page.locator(".jp-Notebook").inner_text())


def gone(output: Locator, command: str) -> None:
    """Look whether a panel gave way to what brings it back, and to its page."""
    said = output.locator(".peft-nb-gone").first
    expect(said).to_be_visible(timeout=SECONDS)
    expect(said).to_have_text(re.compile(f"^kernel gone: {command}$"))
    expect(output.locator(".peft-nb").first.get_by_role("button")).to_have_count(0)  # none that is seen
    expect(output.locator(".peft-nb-stays")).to_be_visible()


@pytest.mark.parametrize("front", ["lab", "notebook"])
def test_panels_say_that_their_kernel_died_was_restarted_or_shut_down(opened: Open, base: Path, front: Front) -> None:
    page = opened([cell.replace("{base}", str(base)) for cell in DYING], front)
    pid = int(run_by_key(page, 0).inner_text())
    training = run_by_key(page, 1)
    expect(training).to_contain_text("tokens/s", timeout=SECONDS)
    expect(training.get_by_role("button", name="Stop", exact=True)).to_be_enabled()
    os.kill(pid, signal.SIGKILL)
    gone(training, r"%peft show lora-\w+")
    expect(page.locator(".jp-Dialog")).to_contain_text("will restart automatically", timeout=SECONDS)
    page.keyboard.press("Enter")
    page.wait_for_function(ALIVE)
    gone(training, r"%peft show lora-\w+")

    run_next(page, 2)
    runs = run_next(page, 3)
    expect(runs.get_by_role("row").filter(has_text="dying").first).to_contain_text("kernel died", timeout=SECONDS)
    page.evaluate("jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    gone(runs, "%peft runs")

    page.wait_for_function(ALIVE)
    page.locator(".jp-Cell").nth(2).click()
    page.keyboard.press("Escape")
    run_next(page, 2)
    page.keyboard.press("ArrowDown")
    form = run_next(page, 4)
    expect(form.get_by_role("button", name="Start")).to_be_visible(timeout=SECONDS)
    page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    gone(form, "%peft panel")

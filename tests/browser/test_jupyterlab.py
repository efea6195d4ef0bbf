"""A user's first quarter of an hour, in a real JupyterLab in a real Chromium, by keyboard alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Open
from tests.browser.lab import SECONDS, run_next, shot, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CELLS = [
    "%load_ext peft_nb\n"
    "import pandas as pd\n"
    "tickets = pd.DataFrame({'question': [f'How much is <b>{n}</b> and {n}?' for n in range(40)],\n"
    "                        'answer': [f'It is {2 * n}.' for n in range(40)]})",
    "%%peft lora --data tickets --out run\nmodel: {base}\nmax_steps: 100000\nlearning_rate: 0.01\neval_steps: 50",
    "%peft resume run",
    "%peft save run kept",
    "%peft load {run.id} --out again",
    "asked = 'How much is 3 and 3?'\nagain.generate(asked, max_new_tokens=5) == run.generate(asked, max_new_tokens=5)",
    "%peft runs",
    "%%peft lora --data tikets\nepochs: many",
]
LOAD, TRAIN, RESUME, SAVE, OPEN, ASK, RUNS, MISTAKE = range(len(CELLS))


@pytest.fixture(scope="module")
def page(opened: Open, base: Path) -> Page:
    return opened([cell.replace("{base}", str(base)) for cell in CELLS])


def interrupt(page: Page) -> None:
    page.locator(".jp-Notebook").focus()
    page.keyboard.press("i")
    page.keyboard.press("i")


def step(output: Locator) -> int:
    """The step that the panel of a run shows."""
    return int(re.search(r"step ([\d,]+) of 100,000", output.inner_text())[1].replace(",", ""))


def test_a_run_is_watched_interrupted_resumed_saved_and_loaded(page: Page) -> None:
    run_next(page, LOAD)
    training = run_next(page, TRAIN)
    expect(training).to_contain_text("tokens/s", timeout=SECONDS)
    expect(training.get_by_role("progressbar")).to_be_visible()
    first = step(training)
    until(page, lambda: step(training) > first)
    assert training.locator(".jp-OutputArea-child").count() == 2  # the panel, and what stays of it
    shot(page, training, "running")

    interrupt(page)
    expect(training).to_contain_text("lora on", timeout=SECONDS)
    expect(training).to_contain_text("stopped: after step", timeout=SECONDS)
    expect(training.locator("img")).to_be_hidden()  # the page is for when there is no panel
    expect(training).to_contain_text("%peft resume run")
    shot(page, training, "stopped")
    stopped = int(re.search(r"after step ([\d,]+)", training.inner_text())[1].replace(",", ""))

    resumed = run_next(page, RESUME)
    expect(resumed).to_contain_text("tokens/s", timeout=SECONDS)
    assert step(resumed) > stopped
    interrupt(page)
    expect(resumed).to_contain_text("stopped: after step", timeout=SECONDS)

    expect(run_next(page, SAVE)).to_contain_text("kept", timeout=SECONDS)
    run_next(page, OPEN)
    expect(run_next(page, ASK)).to_contain_text("True", timeout=SECONDS)
    runs = run_next(page, RUNS)
    expect(runs).to_contain_text("stopped", timeout=SECONDS)
    shot(page, runs, "runs")


def test_a_mistake_is_one_line(page: Page) -> None:
    output = page.locator(".jp-Cell").nth(MISTAKE).locator(".jp-Cell-outputArea")
    page.locator(".jp-Cell").nth(MISTAKE).click()
    page.keyboard.press("Shift+Enter")
    expect(output).to_contain_text("SpecError: epochs: 'many' is not a finite number", timeout=SECONDS)
    assert "Traceback" not in output.inner_text()
    shot(page, output, "mistake")

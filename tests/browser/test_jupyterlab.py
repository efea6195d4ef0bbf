"""A user's first quarter of an hour, in a real JupyterLab in a real Chromium, by keyboard alone."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

SHOTS = Path(__file__).parent / "shots"
SECONDS = 60_000  # a minute, in the browser's milliseconds

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
def lab(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a notebook in a JupyterLab of its own, with settings of its own."""
    folder = tmp_path_factory.mktemp("lab")
    cells = [nbformat.v4.new_code_cell(cell.replace("{base}", str(base))) for cell in CELLS]
    known = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}  # or JupyterLab would ask
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=known), folder / "desk.ipynb")
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    own = {name: str(tmp_path_factory.mktemp(name.lower())) for name in places}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    options = ["--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=", "--expose-app-in-browser"]
    options += ["--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with (folder / "lab.log").open("wb") as log:
        command = [sys.executable, "-m", "jupyterlab", *options]
        server = subprocess.Popen(command, cwd=folder, env=os.environ | own, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until and server.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"{address}/api"):
                break
            time.sleep(0.2)
        yield f"{address}/lab/tree/desk.ipynb"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def page(lab: str) -> Iterator[Page]:
    """The notebook, open and with a kernel."""
    shutil.rmtree(SHOTS, ignore_errors=True)
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(lab)
        expect(page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")).to_be_attached(timeout=SECONDS)
        expect(page.locator("#jupyterlab-splash")).not_to_be_attached(timeout=SECONDS)
        page.wait_for_function("jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'")
        page.wait_for_timeout(6000)  # the notebook takes no keys while it settles, and tells nobody
        page.locator(".jp-Cell").first.click()
        page.keyboard.press("Escape")
        yield page
        browser.close()


def run_next(page: Page, number: int) -> Locator:
    """Run the selected cell, which is the given one, and give its output area."""
    cell = page.locator(".jp-Cell").nth(number)
    page.locator(".jp-Notebook").focus()
    expect(cell).to_have_class(re.compile("jp-mod-active"))
    page.keyboard.press("Shift+Enter")
    expect(cell.locator(".jp-InputPrompt")).not_to_have_text(re.compile(r"\[ \]"), timeout=SECONDS)
    return cell.locator(".jp-Cell-outputArea")


def shot(page: Page, cell: Locator, name: str) -> None:
    """Keep a picture of an output area in both themes and at two widths."""
    for theme in ("Light", "Dark"):
        page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
        for width in (1200, 560):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(400)
            cell.scroll_into_view_if_needed()
            SHOTS.mkdir(exist_ok=True)
            cell.screenshot(path=SHOTS / f"{name}-{theme.lower()}-{width}.png")
    page.set_viewport_size({"width": 1200, "height": 900})


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
    page.wait_for_timeout(1000)
    assert step(training) > first
    assert training.locator(".jp-OutputArea-child").count() == 1
    shot(page, training, "running")

    interrupt(page)
    expect(training).to_contain_text("lora on", timeout=SECONDS)
    expect(training).to_contain_text("stopped: after step", timeout=SECONDS)
    expect(training.get_by_role("img")).to_be_visible()
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

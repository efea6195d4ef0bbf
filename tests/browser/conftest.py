"""A real JupyterLab and Notebook 7 with settings of their own, and notebooks opened in them by a real Chromium."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, Protocol

import nbformat
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.lab import SECONDS, SHOTS, until

Front = Literal["lab", "notebook"]


class Open(Protocol):
    """Open a notebook of some cells."""

    def __call__(self, cells: Sequence[str], front: Front = "lab", scale: float = 1) -> Page: ...


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a server, which has JupyterLab and Notebook 7, and the folder it serves."""
    folder = tmp_path_factory.mktemp("lab")
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    own = {name: str(tmp_path_factory.mktemp(name.lower())) for name in places}
    news = Path(own["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    options = ["--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token="]
    options += ["--expose-app-in-browser", "--JupyterNotebookApp.expose_app_in_browser=True"]
    with (folder / "lab.log").open("wb") as log:
        command = [sys.executable, "-m", "jupyterlab", *options]
        server = subprocess.Popen(command, cwd=folder, env=os.environ | own, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until and server.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"{address}/api"):
                break
            time.sleep(0.2)
        yield address, folder
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    shutil.rmtree(SHOTS, ignore_errors=True)
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(lab: tuple[str, Path], browser: Browser) -> Iterator[Open]:
    """Open a notebook of some cells with a kernel, the first cell selected; its kernel ends with the module."""
    address, folder = lab
    pages: list[Page] = []

    def opened(cells: Sequence[str], front: Front = "lab", scale: float = 1) -> Page:
        known = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}  # or JupyterLab would ask
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata=known)
        name = f"desk{len(list(folder.glob('*.ipynb')))}.ipynb"
        nbformat.write(notebook, folder / name)
        page = browser.new_page(viewport={"width": 1200, "height": 900}, device_scale_factor=scale)
        pages.append(page)
        workspace = f"lab/workspaces/{name.removesuffix('.ipynb')}/tree"
        page.goto(f"{address}/{workspace if front == 'lab' else 'notebooks'}/{name}")
        expect(page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")).to_be_attached(timeout=SECONDS)
        expect(page.locator("#jupyterlab-splash")).not_to_be_attached(timeout=SECONDS)
        page.wait_for_function("jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'")
        if front == "lab":  # the width is the notebook's
            page.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
        cells = page.locator(".jp-Cell")

        def heeds_keys() -> bool:
            cells.first.click()
            page.keyboard.press("Escape")
            page.keyboard.press("ArrowDown")
            page.wait_for_timeout(200)
            return "jp-mod-active" in (cells.nth(1).get_attribute("class") or "")

        until(page, heeds_keys)  # the notebook takes no keys while it settles, and tells nobody
        cells.first.click()
        page.keyboard.press("Escape")
        return page

    yield opened
    for page in pages:
        page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        page.close()

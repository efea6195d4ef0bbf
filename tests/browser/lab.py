"""What the browser tests do with a notebook, by keyboard alone."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

SHOTS = Path(__file__).parent / "shots"
SECONDS = 60_000  # a minute, in the browser's milliseconds

# Whether all is as wide as when this was last asked.
AS_BEFORE = """() => {
    const all = [...document.querySelectorAll('.peft-nb, .peft-nb svg')].map(one => one.getBoundingClientRect().width);
    const [before, now] = [window.widths, JSON.stringify([innerWidth, ...all])];
    window.widths = now;
    return now === before;
}"""


def until(page: Page, holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + SECONDS / 1000
    while not holds():
        assert time.monotonic() < end
        page.wait_for_timeout(50)


def resize(page: Page, width: int, height: int = 900) -> None:
    """Give the page another size, and wait until its panels have taken theirs."""
    page.set_viewport_size({"width": width, "height": height})
    page.evaluate("delete window.widths")
    page.wait_for_function(AS_BEFORE, polling=100)


def paint(page: Page, theme: str) -> None:
    """Choose the theme, Light or Dark, and wait until the page is painted in it."""
    page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
    page.wait_for_function(f"document.body.dataset.jpThemeName === 'JupyterLab {theme}'")
    page.evaluate("new Promise(painted => requestAnimationFrame(() => requestAnimationFrame(painted)))")


def run_next(page: Page, number: int) -> Locator:
    """Run the selected cell, which is the given one, and give its output area."""
    cell = page.locator(".jp-Cell").nth(number)
    page.locator(".jp-Notebook").focus()
    expect(cell).to_have_class(re.compile("jp-mod-active"))
    page.keyboard.press("Shift+Enter")
    expect(cell.locator(".jp-InputPrompt")).not_to_have_text(re.compile(r"\[ \]"), timeout=SECONDS)
    return cell.locator(".jp-Cell-outputArea")


def shot(page: Page, cell: Locator, name: str, widths: tuple[int, ...] = (1200, 560), height: int = 900) -> None:
    """Keep a picture of an output area in both themes and at some widths; what is higher than the page is cut."""
    for theme in ("Light", "Dark"):
        paint(page, theme)
        for width in widths:
            resize(page, width, height)
            cell.scroll_into_view_if_needed()
            SHOTS.mkdir(exist_ok=True)
            cell.screenshot(path=SHOTS / f"{name}-{theme.lower()}-{width}.png")
    page.set_viewport_size({"width": 1200, "height": 900})


def violations(page: Page, selector: str) -> list[str]:
    """What axe-core finds wrong inside an element: rule, what it asks for, and where."""
    found = Axe().run(page, context=selector).response["violations"]
    return [f"{one['id']}: {one['help']}: {node['html']}" for one in found for node in one["nodes"]]

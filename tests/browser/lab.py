"""What the browser tests do with a notebook, in JupyterLab and in Notebook 7, by keyboard alone."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

SHOTS = Path(__file__).parent / "shots"
SECONDS = 60_000  # a minute, in the browser's milliseconds


def run_next(page: Page, number: int) -> Locator:
    """Run the selected cell, which is the given one, and give its output area."""
    cell = page.locator(".jp-Cell").nth(number)
    page.locator(".jp-Notebook").focus()
    expect(cell).to_have_class(re.compile("jp-mod-active"))
    page.keyboard.press("Shift+Enter")
    expect(cell.locator(".jp-InputPrompt")).not_to_have_text(re.compile(r"\[ \]"), timeout=SECONDS)
    return cell.locator(".jp-Cell-outputArea")


def run_by_key(page: Page, number: int) -> Locator:
    """Run the cell that has the focus, which is the given one, by keys alone; give its output area."""
    cell = page.locator(".jp-Cell").nth(number)
    expect(cell).to_have_class(re.compile("jp-mod-active"))
    expect(cell).to_be_focused()
    page.keyboard.press("Shift+Enter")
    expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]"), timeout=SECONDS)
    return cell.locator(".jp-Cell-outputArea")


# The contrast of a ring around the focused element with what lies around it, and its width; nothing without a ring.
RING = """() => {
    const colour = words => {
        const [r, g, b, a = 1] = words.match(/[\\d.]+/g).map(Number);
        return { rgb: [r, g, b], a };
    };
    const light = rgb => {
        const [r, g, b] = rgb.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const one = document.activeElement;
    let behind = [255, 255, 255];
    for (let up = one.parentElement; up; up = up.parentElement) {
        const { rgb, a } = colour(getComputedStyle(up).backgroundColor);
        if (a === 1) { behind = rgb; break; }
    }
    const style = getComputedStyle(one);
    const ring = { width: 0, contrast: 0, what: one.outerHTML.slice(0, 200) };
    if (style.outlineStyle === "none") return ring;
    const [a, b] = [light(colour(style.outlineColor).rgb), light(behind)].sort((a, b) => b - a);
    return { ...ring, width: parseFloat(style.outlineWidth), contrast: (a + 0.05) / (b + 0.05) };
}"""


def go_to(page: Page, wanted: Locator, key: str = "Tab", most: int = 60) -> None:
    """Press a key until a control has the focus; wherever it stops in a panel, the focus is seen."""
    before = None
    for _ in range(most):
        if wanted.count() == 1 and wanted.evaluate("one => one === document.activeElement"):
            return
        page.keyboard.press(key)
        focused = page.evaluate_handle("document.activeElement")
        assert before is None or not focused.evaluate("(one, before) => one === before", before), "a trap for the key"
        before = focused
        if focused.evaluate("one => !!one.closest('.peft-nb')"):
            ring = page.evaluate(RING)
            assert min(ring["width"] / 2, ring["contrast"] / 3) >= 1, ring
    raise AssertionError(f"the key {key} does not reach {wanted}")


def until(page: Page, true: Callable[[], Any]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + SECONDS / 1000
    while not true():
        assert time.monotonic() < end
        page.wait_for_timeout(50)


def still(page: Page) -> None:
    """Wait until what was changed is drawn and nothing moves any more."""
    page.evaluate("new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    page.wait_for_function(
        """() => document.getAnimations().every(
            one => one.playState != "running" || one.effect.getComputedTiming().endTime == Infinity
        )"""
    )


def themed(page: Page, theme: str) -> None:
    """Change to JupyterLab's ``Light`` or ``Dark`` theme."""
    page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
    page.wait_for_function(f"document.body.dataset.jpThemeName == 'JupyterLab {theme}'")
    still(page)


def shot(page: Page, cell: Locator, name: str, widths: tuple[int, ...] = (1200, 560), height: int = 900) -> None:
    """Keep a picture of an output area in both themes and at some widths; what is higher than the page is cut."""
    for theme in ("Light", "Dark"):
        themed(page, theme)
        for width in widths:
            page.set_viewport_size({"width": width, "height": height})
            still(page)
            cell.scroll_into_view_if_needed()
            SHOTS.mkdir(exist_ok=True)
            cell.screenshot(path=SHOTS / f"{name}-{theme.lower()}-{width}.png")
    page.set_viewport_size({"width": 1200, "height": 900})


def violations(page: Page, selector: str) -> list[str]:
    """What axe-core finds wrong inside an element: rule, what it asks for, and where."""
    found = Axe().run(page, context=selector).response["violations"]
    return [f"{one['id']}: {one['help']}: {node['html']}" for one in found for node in one["nodes"]]

"""``make picture``: takes the README's picture of a run in its panel, at twice the size of the screen."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import Open
from tests.browser.lab import run_next, still

PICTURE = Path(__file__).parents[2] / "notebooks" / "panel.png"
CELLS = [
    "%load_ext peft_nb",
    "%%peft lora --data support-desk --out run\nmodel: smollm2-135m\nmax_steps: 45\nlearning_rate: 0.002\n"
    "eval_steps: 15\njudge: off",
]
TRAINED_MS = 900_000


@pytest.mark.browser
@pytest.mark.timeout(1200)
def test_the_picture_of_a_run_is_taken(opened: Open, tmp_path: Path) -> None:
    page = opened(CELLS, scale=2)
    run_next(page, 0)
    output = run_next(page, 1)
    panel = output.locator(".peft-nb").first
    expect(panel).to_contain_text("finished", timeout=TRAINED_MS)
    page.set_viewport_size({"width": 1060, "height": 2200})  # the whole panel
    still(page)
    cell = page.locator(".jp-Cell").nth(1)
    cell.scroll_into_view_if_needed()
    page.mouse.move(0, 0)
    cell.screenshot(path=tmp_path / "panel.png")
    Image.open(tmp_path / "panel.png").convert("RGB").quantize(128).save(PICTURE, optimize=True)

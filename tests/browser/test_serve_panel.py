"""A server is watched, asked and stopped in a real JupyterLab, by keyboard; and killed."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open
from tests.browser.lab import SECONDS, go_to, run_next, shot, still, violations
from tests.browser.test_compare_panel import outside

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CELLS = [
    """%load_ext peft_nb
import peft_nb
rows = [{'question': f'How much is {n} and {n}?', 'answer': f'It is {2 * n}.'} for n in range(40)]
usual = {'data': rows, 'model': '{base}', 'learning_rate': 0.01, 'judge': 'off', 'batch_size': 5}
for steps in (10, 20):
    run = peft_nb.train(name='greeter', max_steps=steps, eval_steps=10, **usual)""",
    "%peft promote greeter@v1 production --why passed\n%peft promote greeter@v2 production --share 10% --why 'try it'",
    "shown = get_ipython().run_line_magic('peft', 'serve greeter@production --threads 1 --context 512')\nshown",
    "shown.server.owner",
    "%peft serve",
]


@pytest.fixture(scope="module")
def page(opened: Open, base: Path) -> Page:
    return opened([cell.replace("{base}", str(base)) for cell in CELLS])


def test_a_server_is_watched_asked_and_its_end_is_shown(page: Page) -> None:
    run_next(page, 0)
    run_next(page, 1)
    panel = run_next(page, 2).locator(".peft-nb").first
    status = panel.get_by_role("status").first
    expect(status).to_contain_text(": ready", timeout=SECONDS)
    # What is scrolled out of sight has no inner text.
    address = (status.text_content() or "").partition(": ready")[0]
    for _ in range(5):
        body = {"model": "greeter@production", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        assert httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60).status_code == 200
    models = panel.get_by_role("region", name="models")
    row = models.get_by_role("row", name=re.compile("^greeter@production"))
    expect(row).to_contain_text("greeter@v1 90 %, greeter@v2 10 %")
    expect(row.get_by_role("cell").first).to_have_text("5")
    assert violations(page, ".peft-nb") == []
    shot(page, panel, "serve-panel", widths=(1280, 480))
    page.set_viewport_size({"width": 480, "height": 900})
    still(page)
    assert outside(panel) == []
    page.set_viewport_size({"width": 1200, "height": 900})

    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    models.focus()
    go_to(page, panel.get_by_role("button", name="Copy curl"))
    page.keyboard.press("Enter")
    expect(panel.get_by_text("copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").startswith(f"curl {address}/v1/chat/completions")

    page.locator(".jp-Cell").nth(3).locator(".jp-InputPrompt").click()
    owner = run_next(page, 3).inner_text()
    pid = re.search(r"(\d+)-\d+\.\d\d-", owner)
    assert pid
    os.kill(int(pid[1]), signal.SIGKILL)
    expect(panel.get_by_role("alert").first).to_contain_text(
        "ended: its process was killed by signal 9", timeout=10_000
    )
    expect(panel.get_by_role("button", name="Stop")).to_be_disabled()
    assert violations(page, ".peft-nb") == []
    shot(page, panel, "serve-panel-ended", widths=(1280, 480))

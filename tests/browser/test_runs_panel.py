"""Runs that another process made are found, opened, promoted, resumed and removed, by keyboard alone."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from peft_nb.data import support_desk
from peft_nb.events import StatusChanged, StepLogged
from peft_nb.metrics import METRICS
from peft_nb.runs.run import begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests.browser.conftest import Open
from tests.browser.lab import SECONDS, run_next, shot, violations
from tests.conftest import stop_at

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

EVIL = "<script>document.title='in'</script><img src=x onerror=\"document.title='in'\"> مرحبا 👩‍🔧 " + "w" * 300
SPEC = "data: rows\nmethod: lora\nmodel: smollm2-135m\n"


@pytest.fixture(scope="module")
def store(spec: Callable[..., RunSpec], tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Twenty-four runs of no process that lives: one was really trained and stopped, one is hostile."""
    store = Store(tmp_path_factory.mktemp("store"))
    for number in range(23):
        id = store.create(
            SPEC, method="lora", model=EVIL if number == 21 else "smollm2-135m", name=f"desk-{number % 4}"
        )
        (store.folder_of(id) / "adapter").mkdir()
        (store.folder_of(id) / "adapter" / "adapter_model.safetensors").write_text("weights")
        for step in range(1, 30):
            fall = 3 / (1 + step / 9) + 0.2 * ((step * 7919 + number) % 13) / 13
            store.record(id, StepLogged(step, step / 30, fall, 1e-3, 1.0, 900.0, 2900.0, 2.0 * step))
        passed = f"passed: eval_loss {1 + number / 10}, wanted < 4"
        verdict = (EVIL if number == 21 else "failed: forgetting 0.41, wanted < 0.05") if number % 3 == 0 else passed
        metrics = {"eval_loss": 1 + number / 10, "base_eval_loss": 3.4, "train_loss": 0.9, "verdict": verdict}
        store.set_metrics(id, {**metrics, "wall_seconds": 60.0 + number, "peak_memory_mb": 2900.0})
        store.record(id, StatusChanged("failed", EVIL) if number == 21 else StatusChanged("finished"))
    store.promote("desk-0@v2", "production", why="the best there is")
    rows = [{"question": row["question"], "answer": row["answer"]} for row in support_desk.load()["train"][:23]]
    described = spec(max_steps=100_000, save_steps=5, eval_steps=5, name="broken-off")
    begin(described, data=rows, store=store, listeners=[stop_at(25)]).wait()
    return store


@pytest.fixture(scope="module")
def page(opened: Open, store: Store) -> Page:
    place = f"import os\nos.environ['PEFT_NB_STORE'] = {str(store.folder)!r}\n%load_ext peft_nb"
    return opened([place, "%peft runs"])


def press(page: Page, panel: Locator, label: str) -> None:
    panel.get_by_role("button", name=label).first.focus()  # an open run has buttons of its own, further down
    page.keyboard.press("Space")


def choose(page: Page, panel: Locator, words: str) -> None:
    panel.get_by_label("Find").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type(words)
    expect(panel.locator(".peft-nb-runs tbody tr")).to_have_text([re.compile(re.escape(words[:6]))])
    box = panel.locator("[data-run]")
    box.focus()
    if not box.is_checked():
        page.keyboard.press("Space")
    expect(panel.locator("tr.peft-nb-chosen")).to_have_count(1)
    expect(panel.locator("[data-run]")).to_be_focused()


def test_the_store_is_searched_and_its_runs_are_worked_with(page: Page, store: Store) -> None:
    run_next(page, 0)
    output = run_next(page, 1)
    panel = output.locator(".peft-nb").first
    expect(panel.get_by_role("table")).to_contain_text("broken-off", timeout=SECONDS)
    expect(panel.get_by_role("row")).to_have_count(21)
    assert panel.get_by_role("columnheader").count() == 8
    assert violations(page, ".peft-nb") == []
    press(page, panel, "Next page")
    expect(panel.get_by_text("21–24 of 24")).to_be_visible()
    press(page, panel, "Previous page")

    # What the tab key reaches, in the order in which it is read.
    panel.get_by_label("Find").focus()
    reached = []
    for _ in range(13):
        reached.append(page.evaluate("document.activeElement.innerText || document.activeElement.tagName"))
        page.keyboard.press("Tab")
    pages = ["Previous page", "Next page"]
    acts = ["Resume", "Stop", "Compare", "Settings diff", "Promote …", "Tags …", "Remove …", "Refresh"]
    assert reached[1:] == [*pages, *acts, "run", "status"]

    panel.locator(f"[data-sort='{METRICS['eval_loss'].title}']").focus()
    page.keyboard.press("Enter")
    expect(panel.locator("[aria-sort=ascending]")).to_contain_text(METRICS["eval_loss"].title)
    expect(panel.locator("[aria-sort=ascending] button")).to_be_focused()
    shot(page, output, "runs-panel", (1280, 480))
    assert page.title().startswith("desk")

    choose(page, panel, "broken-off")
    panel.locator("[data-open]").focus()
    page.keyboard.press("Enter")
    expect(panel).to_contain_text("stopped: after step 2", timeout=SECONDS)
    expect(panel.get_by_role("slider", name="loss").locator("canvas")).to_be_visible()
    expect(panel.get_by_role("button", name="Chat")).to_be_enabled()

    panel.get_by_label("Find").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("broken")
    expect(panel.locator("[data-open]")).to_have_count(1)
    page.keyboard.press("Control+a")
    page.keyboard.type("nothing of that kind")
    expect(panel.get_by_text("no run, of 24 runs in all")).to_be_visible()
    choose(page, panel, "desk-0@production")
    press(page, panel, "Remove")
    expect(panel.get_by_role("alert")).to_contain_text("is desk-0@production and stays")
    choose(page, panel, "desk-1 v1")
    press(page, panel, "Promote")
    expect(panel.get_by_label("Alias")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.type("fewer refusals")
    shot(page, output, "runs-panel-promote", (1280, 480))
    assert violations(page, ".peft-nb") == []
    panel.get_by_role("button", name="Promote", exact=True).focus()
    page.keyboard.press("Space")
    expect(panel).to_contain_text("desk-1@production: (none) → v1")
    choose(page, panel, "desk-2 v1")
    press(page, panel, "Remove …")
    expect(panel.get_by_label("Reason for the log").last).to_be_focused()
    page.keyboard.type("not needed")
    press(page, panel, "Remove for good")
    expect(panel).to_contain_text("desk-2 v1 is removed")
    assert store.log()[0].why == "not needed"

    choose(page, panel, "broken-off")
    press(page, panel, "Resume")
    expect(panel).to_contain_text("tokens/s", timeout=SECONDS)
    press(page, panel, "Stop")
    expect(panel).to_contain_text(re.compile("stopped: (after step|before the first step)"), timeout=SECONDS)
    shot(page, output, "runs-panel-open", (1280, 480))
    assert violations(page, ".peft-nb") == []

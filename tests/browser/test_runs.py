"""The panel of the runs by mouse and by keyboard: opened, sorted, found, tagged, told apart, removed; files loaded."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from peft_nb.runs.run import begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests.browser.conftest import Open
from tests.browser.lab import SECONDS, run_next, until, violations
from tests.stores import finish

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

PLACE, EMPTY, HERE, RUNS, REMOVE, AGAIN, COMPARE = range(7)
Press = Callable[[Locator], None]


@pytest.fixture(scope="module")
def store(spec: Callable[..., RunSpec], rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two runs that were trained, and one of which little is known."""
    store = Store(tmp_path_factory.mktemp("store"))
    for name, rank in (("small", 2), ("wide", 4)):
        begin(spec(name=name, r=rank, max_steps=4, judge="quick"), data=rows, store=store).wait()
    finish(store, "other", "data: rows\n", eval_loss=9.0, train_loss=1234.5)
    return store


@pytest.fixture(scope="module")
def page(opened: Open, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Page:
    there = "import os; os.environ['PEFT_NB_STORE'] = "
    return opened(
        [
            f"%load_ext peft_nb\nimport peft_nb\n{there}{str(tmp_path_factory.mktemp('empty'))!r}",
            "%peft runs",
            f"{there}{str(store.folder)!r}",
            "%peft runs",
            "%peft rm other",
            "%peft rm other",
            "peft_nb.compare('small', 'wide', 'base', prompts=['Is 1,5 \"more\" than 1?\\nYes?'], max_new_tokens=4)",
        ]
    )


def by_mouse(control: Locator) -> None:
    control.click()


def by_keyboard(control: Locator) -> None:
    control.focus()
    control.page.keyboard.press("Space")


def write(panel: Locator, press: Press, label: str, words: str) -> None:
    field = panel.get_by_label(label)
    press(field) if press is by_mouse else field.focus()
    panel.page.keyboard.press("Control+a")
    panel.page.keyboard.type(words)


def narrow(page: Page, panel: Locator) -> None:
    """Look whether no text and no table is beyond the edge of a narrow panel."""
    page.set_viewport_size({"width": 480, "height": 900})
    beyond = """panel => [...panel.querySelectorAll('[role=region], p, details, section, table.peft-nb-runs')]
        .filter(one => one.getBoundingClientRect().right > panel.getBoundingClientRect().right + 1)
        .map(one => one.outerHTML.slice(0, 200))"""
    until(page, lambda: panel.evaluate(beyond) == [])
    page.set_viewport_size({"width": 1200, "height": 900})


def test_an_empty_store_says_what_to_do(page: Page) -> None:
    run_next(page, PLACE)
    panel = run_next(page, EMPTY).locator(".peft-nb").first
    expect(panel).to_contain_text("No runs yet", timeout=SECONDS)
    expect(panel.locator("li code")).to_have_text(
        ["%peft data TABLE", "%%peft lora --data TABLE --out run", "%peft panel"]
    )
    expect(panel.get_by_role("button")).to_have_text(["Refresh"])
    assert violations(page, ".peft-nb") == []
    run_next(page, HERE)
    run_next(page, RUNS)


@pytest.mark.parametrize("press", [by_mouse, by_keyboard])
def test_runs_are_sorted_found_opened_told_apart_and_tagged(page: Page, store: Store, press: Press) -> None:
    panel = page.locator(".jp-Cell").nth(RUNS).locator(".peft-nb").first
    alert, said = panel.get_by_role("alert"), panel.locator(".peft-nb-outcome").first
    expect(panel.locator("[data-open]")).to_have_count(3, timeout=SECONDS)
    losses = {record.title: record.metrics["eval_loss"] for record in store.all()}
    rising = sorted(losses, key=losses.__getitem__)

    press(panel.locator("[data-sort='eval loss']"))
    expect(panel.locator("[data-open]")).to_have_text(rising)
    press(panel.locator("[data-sort='eval loss']"))
    expect(panel.locator("[data-open]")).to_have_text(rising[::-1])
    press(panel.locator("[data-sort='created']"))
    expect(panel.locator("[data-open]")).to_have_text(["other v1", "wide v1", "small v1"])

    press(panel.get_by_role("button", name="Promote …"))
    expect(alert).to_contain_text("no run is chosen")
    for title in ("small v1", "wide v1"):
        press(panel.get_by_label(f"choose {title}"))
        expect(panel.get_by_label(f"choose {title}")).to_be_checked()
    expect(alert).to_have_count(0)  # what was wrong no longer is
    press(panel.get_by_role("button", name="Settings diff"))
    expect(panel.locator("details[open] tbody")).to_contain_text(re.compile(r"r\s*2\s*4"))
    expect(said).to_contain_text("shown below")

    press(panel.get_by_role("button", name="Tags …"))
    expect(panel.get_by_label("Tags", exact=True)).to_be_focused()
    expect(panel.locator("details[open]")).to_have_count(0)
    write(panel, press, "Tags", "baseline, <b>")
    press(panel.get_by_role("button", name="Set tags"))
    expect(alert).to_contain_text("'<b>' cannot be a tag", timeout=SECONDS)
    write(panel, press, "Tags", "baseline")
    press(panel.get_by_role("button", name="Set tags"))
    expect(panel.locator("[data-tag]")).to_have_text(["baseline", "baseline"])
    press(panel.locator("[data-tag]").first)
    expect(panel.get_by_label("Find")).to_have_value("tag:baseline")
    expect(panel.locator("[data-open]")).to_have_text(["wide v1", "small v1"])
    write(panel, press, "Find", "small")
    expect(panel.locator("[data-open]")).to_have_text(["small v1"])

    press(panel.locator("[data-open]"))
    expect(said).to_contain_text("is open below")
    expect(panel.get_by_role("button", name="Merge")).to_be_enabled()
    expect(panel).to_contain_text("tags")
    press(panel.get_by_role("button", name="Stop").first)
    expect(alert).to_contain_text("this kernel is not at work on it")
    press(panel.get_by_role("button", name="Remove …"))
    expect(panel.get_by_text("Remove small v1 with folder")).to_be_visible()
    expect(panel.get_by_role("button", name="Merge")).to_have_count(0)  # an open run is not asked about
    expect(alert).to_have_count(0)
    press(panel.get_by_role("button", name="Cancel").last)
    expect(panel.get_by_text("Remove small v1 with folder")).to_be_hidden()
    assert violations(page, ".peft-nb") == []
    narrow(page, panel)
    write(panel, press, "Find", " ")
    expect(panel.locator("[data-open]")).to_have_count(3)
    for name in ("small", "wide"):
        store.untag(name, "baseline")
        if panel.get_by_label(f"choose {name} v1").is_checked():
            press(panel.get_by_label(f"choose {name} v1"))
    press(panel.get_by_role("button", name="Refresh"))
    expect(panel.locator("[data-tag]")).to_have_count(0)


@pytest.mark.parametrize(
    ("number", "answer", "told", "left"),
    [(REMOVE, "n", "nothing is removed", 3), (AGAIN, "y", "other v1 is removed", 2)],
)
def test_who_removes_a_run_is_asked(page: Page, store: Store, number: int, answer: str, told: str, left: int) -> None:
    cell = page.locator(".jp-Cell").nth(number)
    cell.locator(".jp-InputPrompt").click()
    page.keyboard.press("Shift+Enter")
    expect(cell.locator(".jp-Stdin-prompt")).to_contain_text("Remove other v1 (finished) with its folder")
    assert len(store.all()) == 3
    cell.locator(".jp-Stdin-input").fill(answer)
    cell.locator(".jp-Stdin-input").press("Enter")
    expect(cell).to_contain_text(told, timeout=SECONDS)
    assert len(store.all()) == left


def test_what_is_downloaded_holds_what_was_compared(page: Page, store: Store) -> None:
    page.locator(".jp-Cell").nth(COMPARE).locator(".jp-InputPrompt").click()
    panel = run_next(page, COMPARE).locator(".peft-nb").first
    links = panel.locator("a[download]")
    expect(links).to_have_text(["metrics.csv", "answers.csv", "comparison.html"], timeout=SECONDS)
    narrow(page, panel)
    files = {}
    for link in links.all():
        with page.expect_download() as download:
            link.click()
        files[download.value.suggested_filename] = Path(download.value.path()).read_text("utf-8-sig")
    table = {row["run"]: row for row in csv.DictReader(io.StringIO(files["metrics.csv"]))}
    assert list(table) == ["small", "wide", "base"]
    for name in ("small", "wide"):
        assert float(table[name]["eval_loss"]) == store.get(name).metrics["eval_loss"]
    told = store.get("small").metrics
    for name in ("eval_loss", "token_accuracy"):
        assert float(table["base"][name]) == told[f"base_{name}"]
    assert float(table["base"]["forgetting"]) == 0
    (answers,) = csv.DictReader(io.StringIO(files["answers.csv"]))
    assert answers["prompt"] == 'Is 1,5 "more" than 1?\nYes?'
    assert {"small", "wide", "base"} < answers.keys()
    assert files["comparison.html"].startswith("<!DOCTYPE html>")
    assert "token accuracy" in files["comparison.html"]

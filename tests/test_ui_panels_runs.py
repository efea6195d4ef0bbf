from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
from IPython.core.interactiveshell import InteractiveShell

import peft_nb
from peft_nb.metrics import METRICS
from peft_nb.runs.run import Run, load
from peft_nb.store import Store
from peft_nb.system import frontend
from peft_nb.ui.panels.runs import RunsPanel
from tests.conftest import stop_at
from tests.stores import finish
from tests.test_ui_runs import trained
from tests.widgets import button_of, published, words_of

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)> مرحبا 👩‍🔧 " + "w" * 300
SPEC = "data: rows\n"


def said(panel: RunsPanel) -> str:
    return re.sub("<[^>]+>", "", panel._outcome.value)


def wait_for(happened: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.05)


def tick(panel: RunsPanel, *ids: str) -> None:
    for id in panel.chosen:
        panel.pressed({"run": id, "chosen": False})
    for id in ids:
        panel.pressed({"run": id, "chosen": True})


def listed(panel: RunsPanel) -> list[str]:
    return re.findall('data-open="([^"]*)"', panel.table.value)


def press(panel: RunsPanel, label: str) -> None:
    button_of(panel.box, label).click()


# ---- the table ---------------------------------------------------------------------------------


# ---- the panel ---------------------------------------------------------------------------------


def test_a_thousand_runs_are_twenty_a_page(store: Store) -> None:
    with store._index.writing() as db:
        db.executemany(
            "INSERT INTO runs (id, method, model, created, status, spec_yaml, package_versions, metrics)"
            " VALUES (?, 'lora', 'm', ?, 'finished', '', '{}', ?)",
            ((f"lora-{n:04}", 1e9 + n, f'{{"eval_loss": {n % 97}}}') for n in range(1000)),
        )
        db.executemany(
            "INSERT INTO history (run, step, loss) VALUES (?, ?, ?)",
            ((f"lora-{n:04}", step, 1 / step) for n in range(1000) for step in range(1, 21)),
        )
    panel = RunsPanel(store)
    assert panel.table.value.count("<svg") == 20
    assert listed(panel)[0] == "lora-0999"
    assert "1–20 of 1,000<" in panel.place.value
    press(panel, "Next page")
    assert listed(panel)[0] == "lora-0979"
    panel.words.value = "lora-00"
    assert "1–20 of 100, of 1,000 runs in all" in panel.place.value
    panel.pressed({"sort": METRICS["eval_loss"].title})
    assert listed(panel)[0] == "lora-0097"  # as good as lora-0000, and newer
    for _ in range(9):
        press(panel, "Next page")
    assert "81–100 of 100" in panel.place.value
    panel.words.value = "nothing like it"
    assert "no run, of 1,000 runs in all" in panel.place.value
    assert listed(panel) == []
    assert panel.pages.layout.display == "none"


def test_what_needs_a_run_says_so(store: Store) -> None:
    for name in ("first", "second"):
        trained(store, name)
    panel = RunsPanel(store)
    press(panel, "Compare")
    assert said(panel) == "Error: no run is chosen; tick one in the table"
    tick(panel, *listed(panel))
    assert "1–2 of 2 · 2 chosen" in panel.place.value
    press(panel, "Promote")
    assert said(panel) == "Error: 2 runs are chosen; this takes one"
    tick(panel, panel.chosen[0])
    press(panel, "Settings diff")
    assert said(panel).startswith("Error: settings are compared of two or more runs")
    press(panel, "Stop")
    assert "this kernel is not at work on it" in said(panel)


def test_an_empty_store_says_what_to_do(store: Store) -> None:
    panel = RunsPanel(store)
    assert "No runs yet" in panel.table.value
    assert "%%peft lora --data" in panel.table.value
    assert button_of(panel.box, "Compare").layout.display == "none"
    trained(store)
    press(panel, "Refresh")
    assert button_of(panel.box, "Compare").layout.display == ""
    assert "No runs yet" not in panel.table.value


def test_an_error_goes_with_what_it_was_about(store: Store) -> None:
    ids = [finish(store, "tickets", SPEC), finish(store, None, SPEC)]
    panel = RunsPanel(store)
    press(panel, "Promote")
    assert "no run is chosen" in said(panel)
    tick(panel, ids[0])
    assert said(panel) == ""
    press(panel, "Resume")
    assert "has finished" in said(panel)
    press(panel, "Remove")
    assert said(panel) == ""
    assert panel.removal.box.layout.display == ""
    press(panel, "Promote")
    assert panel.removal.box.layout.display == "none"
    panel.promotion.box.children[-1].children[0].click()
    assert "needs a reason" in said(panel)
    panel.promotion.box.children[-1].children[1].click()
    assert (said(panel), panel.promotion.box.layout.display) == ("", "none")


def test_tags_are_put_on_taken_off_and_pressed(store: Store) -> None:
    first, second = finish(store, "tickets", SPEC), finish(store, "mails", SPEC)
    store.tag(first, "long", "baseline")
    store.tag(second, "long")
    panel = RunsPanel(store)
    tick(panel, first, second)
    press(panel, "Tags")
    assert panel.tagging.box.layout.display == ""
    assert panel.tags.value == "long"
    panel.tags.value = "not,so/good"
    press(panel, "Set tags")
    assert "so/good&#x27; cannot be a tag" in said(panel)
    panel.tags.value = "short, demo"
    with published() as bundles:
        panel._ipython_display_()
        press(panel, "Set tags")
    assert "baseline, demo, short" in bundles[-1]["text/html"]  # which is what stays in the notebook
    assert said(panel) == "tickets v1, mails v1: tags short, demo"
    assert store.get(first).tags == ("baseline", "demo", "short")
    assert store.get(second).tags == ("demo", "short")
    panel.pressed({"tag": "baseline"})
    assert panel.words.value == "tag:baseline"
    assert listed(panel) == [first]


def test_a_header_sorts_and_turns_the_order_round(store: Store) -> None:
    ids = [trained(store, name, loss) for name, loss in (("a", 2.0), ("b", 1.0), ("c", 3.0))]
    panel = RunsPanel(store)
    assert listed(panel) == [ids[2], ids[1], ids[0]]
    title = METRICS["eval_loss"].title
    panel.pressed({"sort": title})
    assert listed(panel) == [ids[1], ids[0], ids[2]]
    panel.pressed({"sort": title})
    assert listed(panel) == [ids[2], ids[0], ids[1]]
    assert re.findall('aria-sort="([a-z]+)"', panel.table.value) == ["descending"]
    panel.pressed({"sort": "<no such column>"})
    assert listed(panel) == [ids[2], ids[0], ids[1]]


def test_one_thing_at_a_time_stands_above_the_table(store: Store, shell: InteractiveShell) -> None:
    first, second = finish(store, None, SPEC + "r: 8\n"), finish(store, None, SPEC + "r: 16\nname: other\n")
    panel = RunsPanel(store)
    tick(panel, first, second)
    press(panel, "Settings diff")
    assert said(panel) == "1 setting differs, shown below"
    assert re.sub("<[^>]+>", " ", panel.opened.children[0].value).split()[-3:] == ["r", "8", "16"]
    tick(panel, first)
    press(panel, "Promote")
    assert panel.opened.children == ()
    panel.pressed({"open": second})
    assert panel.promotion.box.layout.display == "none"
    assert f"{second} is open below" in said(panel)


def test_promoted_with_alias_and_reason(store: Store) -> None:
    id = finish(store, None, SPEC, verdict="failed: forgets 0.4 nats")
    panel = RunsPanel(store)
    tick(panel, id)
    assert panel.promotion.box.layout.display == "none"
    press(panel, "Promote")
    assert panel.promotion.box.layout.display == panel.called.layout.display == ""
    panel.promotion.box.children[-1].children[0].click()
    assert "needs a reason" in said(panel)
    panel.why.value, panel.called.value = "for a demo", "tickets"
    panel.promotion.box.children[-1].children[0].click()
    assert "its verdict is: failed" in said(panel)
    panel.force.value = True
    panel.promotion.box.children[-1].children[0].click()
    assert said(panel) == "tickets@production: (none) → v1"
    assert panel.promotion.box.layout.display == "none"
    assert store.get("tickets@production").id == id
    assert "@production" in panel.table.value
    assert panel.chosen == [id]


def test_removed_when_asked_twice_and_never_under_an_alias(store: Store) -> None:
    kept, gone = finish(store, "tickets", SPEC), finish(store, "tickets", SPEC)
    store.promote(kept, "production", why="good")
    panel = RunsPanel(store)
    tick(panel, kept)
    press(panel, "Remove")
    assert "is tickets@production and stays" in said(panel)
    assert panel.removal.box.layout.display == "none"
    tick(panel, gone)
    press(panel, "Remove")
    assert panel.removal.box.layout.display == ""
    assert len(store.all()) == 2
    tick(panel, kept)  # what was asked about is removed, nothing else
    panel.gone_why.value = "nobody uses it"
    press(panel, "Remove for good")
    assert said(panel) == "tickets v2 is removed"
    assert [one.id for one in store.all()] == [kept]
    assert store.log()[0].why == "nobody uses it"
    assert gone not in panel.table.value


def test_a_stopped_run_opens_from_disk_resumes_stops_and_is_compared(
    start: Callable[..., Run], store: Store, shell: InteractiveShell
) -> None:
    run = start(stop_at(3), max_steps=100_000, save_steps=1).wait()
    id = run.id
    panel = RunsPanel(Store(store.folder))  # as after a restart: nothing but the disk
    tick(panel, id)
    panel.pressed({"open": id})
    assert f"stopped: {run.reason}" in words_of(panel.opened)
    assert f"%peft load {id}" in words_of(panel.opened)
    assert not button_of(panel.opened, "Resume").disabled
    steps = len(run.history)
    assert f"{id} is open below" in said(panel)

    press(panel, "Resume")
    wait_for(lambda: len(load(id, store=store).history) > steps)
    wait_for(lambda: "tokens/s" in words_of(panel.opened))
    assert 'data-label="status">stopped' not in panel.table.value
    press(panel, "Stop")
    assert "stops after its current step" in said(panel)
    wait_for(lambda: "stopped: after step" in words_of(panel.opened))
    wait_for(lambda: "stopped" in panel.table.value)

    press(panel, "Compare")
    wait_for(lambda: "compared below" in said(panel))
    wait_for(lambda: "eval_loss" in words_of(panel.opened))
    assert button_of(panel.opened, "Reveal")  # who compares can also vote


def test_a_run_at_work_is_open_alive_and_goes_on_where_it_was_opened(
    start: Callable[..., Run], store: Store, shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontend, "frontend", lambda: "jupyterlab")
    run = start(max_steps=100_000, save_steps=1)
    panel = RunsPanel(store)
    tick(panel, run.id)
    panel.pressed({"open": run.id})
    wait_for(lambda: re.search("step [1-9]", words_of(panel.opened)) is not None)
    before = words_of(panel.opened)
    wait_for(lambda: words_of(panel.opened) != before)
    button_of(panel.opened, "Stop").click()
    run.wait()
    wait_for(lambda: "stopped: after step" in words_of(panel.opened))
    wait_for(lambda: 'data-label="status">stopped' in panel.table.value)
    button_of(panel.opened, "Resume").click()
    wait_for(lambda: not button_of(panel.opened, "Stop").disabled)
    button_of(panel.opened, "Stop").click()
    wait_for(lambda: not button_of(panel.opened, "Resume").disabled)
    assert run.status == "stopped"


def test_the_command_gives_the_table_and_where_widgets_are_shown_the_panel(
    shell: InteractiveShell, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(store, "tickets", SPEC)
    table = shell.run_line_magic("peft", "runs")
    assert isinstance(table, pandas.DataFrame)
    plain = peft_nb.runs()
    format = shell.display_formatter.format
    for formatter in shell.display_formatter.formatters.values():
        formatter.enabled = True
    shown = format(table)[0]
    room = "on disk: 0 MB of runs, 0 MB of encoded rows"
    assert re.fullmatch(f"(?s).* tickets +v1 .*\n\n{room}", shown["text/plain"])
    assert shown["text/html"].endswith(f"</table></div><p>{room}</p>")
    assert set(format(table)[0]) == {"text/plain", "text/html"}
    monkeypatch.setattr(frontend, "frontend", lambda: "jupyterlab")
    with published() as bundles:
        format(table)
    view, page = bundles
    assert view["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert page["text/plain"] == shown["text/plain"]
    assert shown["text/html"] in page["text/html"]
    assert set(format(plain)[0]) == {"text/plain", "text/html"}


def test_the_panel_has_one_name(store: Store, tmp_path: Path) -> None:
    assert repr(RunsPanel(store)) == "<peft_nb runs>"

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from peft_nb.events import Event, Notice, Sampled, StatusChanged, StepLogged
from peft_nb.runs.run import Run, load
from peft_nb.store import Store
from peft_nb.system import frontend
from peft_nb.ui import live
from peft_nb.ui.panels.chart import Chart
from peft_nb.ui.panels.run import UNHEARD, RunPanel
from peft_nb.ui.view import RunView
from tests.conftest import stop_at
from tests.widgets import words_of

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[RunPanel]:
    """The panels that a front end with widgets was given."""
    panels: list[RunPanel] = []
    monkeypatch.setattr(frontend, "frontend", lambda: "jupyterlab")
    monkeypatch.setattr("IPython.display.display", lambda panel: (panels.append(panel), panel._ipython_display_()))
    return panels


def until(true: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def outcome(panel: RunPanel) -> str:
    return panel._outcome.value


def steps_of(panel: RunPanel, name: str = "train loss") -> list[float]:
    """The steps at which a line of the chart has values."""
    return [step for one in panel.chart.lines if one["name"] == name for step in numpy.frombuffer(one["x"])]


def enabled(panel: RunPanel) -> set[str]:
    buttons = (panel.stop, panel.resume, panel.save, panel.merge, panel.export, panel.compare, panel.chat)
    return {one.description for one in buttons if not one.disabled}


def test_a_run_is_watched_stopped_resumed_and_saved_in_one_panel(
    start: Callable[..., Run],
    shown: list[RunPanel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[set[str]] = []

    def press_stop(event: Event) -> None:
        stop_at(3)(event)
        if shown:
            seen.append(enabled(shown[0]))

    run = live.watch(lambda listeners: start(*listeners, press_stop, max_steps=400))
    (panel,) = shown
    assert {"Stop"} in seen
    assert run.status == "stopped"
    assert enabled(panel) == {"Resume", "Save", "Merge", "Export", "Compare", "Chat"}
    assert "stopped: after step" in outcome(panel)
    assert len(steps_of(panel)) >= 2
    assert "stopped: after step" in capsys.readouterr().out  # the summary, which stays

    panel.resume.click()
    until(lambda: enabled(panel) == {"Stop"})
    panel.stop.click()
    assert "stopping after this step" in outcome(panel)
    until(lambda: "stopped: after step" in outcome(panel))
    assert panel.stop.description == "Stop"

    panel.called.value = "kept"
    panel.save.click()
    until(lambda: "saved in kept-adapter" in outcome(panel))
    assert (tmp_path / "kept-adapter" / "adapter_model.safetensors").exists()
    panel.merge.click()
    until(lambda: "merged into kept-merged" in outcome(panel))
    panel.merge.click()
    until(lambda: "kept-merged" in outcome(panel) and 'role="alert"' in outcome(panel))


def test_a_run_of_another_process_is_reopened_with_its_curves(
    start: Callable[..., Run], store: Store, shown: list[RunPanel]
) -> None:
    run = start(stop_at(6), max_steps=400)
    run.wait()
    events = run.events()
    live.show(load(run.id, store=Store(store.folder)))
    (panel,) = shown
    steps = [event.step for event in events if type(event).__name__ == "StepLogged"]
    assert steps_of(panel) == steps
    assert "stopped" in outcome(panel)
    assert "Resume" in enabled(panel)
    assert [event for event in events if isinstance(event, Sampled)]
    assert "expected" in panel._samples.value


def test_a_run_at_work_is_shown_alive_beside_the_panel_of_its_cell(
    start: Callable[..., Run], shown: list[RunPanel]
) -> None:
    run = live.watch(lambda listeners: start(*listeners, max_steps=100_000), background=True)
    live.show(run, "run")
    own, shown_too = shown
    until(lambda: len(steps_of(shown_too)) > 2)
    before = len(steps_of(shown_too))
    until(lambda: len(steps_of(shown_too)) > before)
    shown_too.stop.click()
    run.wait()
    steps = [event.step for event in run.events() if isinstance(event, StepLogged)]
    for panel in (own, shown_too):
        until(lambda panel=panel: "stopped: after step" in outcome(panel))
        assert steps_of(panel) == steps  # none is lost, none comes twice


def test_what_cannot_be_done_is_said_in_the_panel(finished: Run, shown: list[RunPanel]) -> None:
    live.show(finished)
    (panel,) = shown
    assert enabled(panel) == {"Save", "Merge", "Export", "Compare", "Chat"}
    panel._resume()
    assert 'role="alert"' in outcome(panel)
    assert "has finished" in outcome(panel)


def test_a_run_that_failed_is_offered_to_go_on_only_from_a_checkpoint(finished: Run) -> None:
    for status, checkpoint, offered in (("failed", None, False), ("failed", 3, True), ("stopped", None, True)):
        panel = RunPanel(finished, lambda: None)
        panel.draw(RunView(status=status, reason="row 12 is empty", checkpoint=checkpoint))  # type: ignore[arg-type]
        assert ("Resume" in enabled(panel)) == offered
        assert words_of(panel.box).count("row 12 is empty") == 1


def test_what_cannot_be_drawn_is_said_in_the_panel_which_goes_on(
    start: Callable[..., Run], shown: list[RunPanel], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, broken, said = Chart.draw, list[int](), list[str]()

    def fail_once(*given: Any) -> None:
        if not broken:
            broken.append(1)
            shown[0]._outcome.observe(lambda change: said.append(change.new), "value")
            raise ValueError("no such colour")
        draw(*given)

    monkeypatch.setattr(Chart, "draw", fail_once)
    run = live.watch(lambda listeners: start(*listeners, max_steps=60, eval_steps=30))
    (panel,) = shown
    assert run.status == "finished"
    assert any("ValueError: no such colour" in one for one in said)
    assert "finished" in outcome(panel)
    assert len(steps_of(panel)) >= 2


def test_where_no_button_is_heard_while_a_cell_runs_the_panel_names_the_one_that_is(
    finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for heard in (True, False):
        monkeypatch.setattr(frontend, "comms_while_busy", lambda heard=heard: heard)
        panel = RunPanel(finished, lambda: None)
        assert any(UNHEARD[:30] in getattr(child, "value", "") for child in panel.box.children) != heard


def test_the_curves_of_a_finished_run_stand_behind_those_of_another(start: Callable[..., Run]) -> None:
    first = start(max_steps=4).wait()
    run = start(max_steps=3).wait()
    panel = RunPanel(run, lambda: None)
    panel.draw(live.view_of(run))
    assert panel.chart.others == [first.id]
    names = [line["name"] for line in panel.chart.lines]
    panel.chart.behind = first.id
    assert [(line["name"], line["pale"]) for line in panel.chart.lines] == [
        *((name, False) for name in names),
        *((f"{first.id}: {name}", True) for name in names),
    ]
    assert steps_of(panel, f"{first.id}: train loss") == [1, 2, 3, 4]
    panel.chart.behind = ""
    assert [line["name"] for line in panel.chart.lines] == names


def test_hostile_text_changes_nothing_but_text(finished: Run) -> None:
    panel = RunPanel(finished, lambda: None)
    view = live.replay(
        [Notice(EVIL), Sampled(0, EVIL, EVIL, EVIL), Sampled(4, EVIL, EVIL, "no"), StatusChanged("failed", EVIL)]
    )
    panel.draw(view)
    said = panel._facts.value + panel._samples.value + outcome(panel)
    assert said.count("&lt;script&gt;") == 5
    assert "<script" not in said
    assert "<img" not in said
    assert repr(panel) == f"<peft_nb panel of run {panel._run.id}>"

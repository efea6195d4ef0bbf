from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import nbformat
import pytest
from nbclient import NotebookClient

from peft_nb.errors import RunError
from peft_nb.events import Event, Listener, Notice, Planned, Preparing, StatusChanged, StepLogged
from peft_nb.store import Facts
from peft_nb.ui import live, surfaces
from peft_nb.ui.view import RunView

PLAN = Planned(20, 336, 60, 41234, 4_884_480, 139_400_064, "float32", "cpu", "padding-free")


def steps(pause_s: float = 0.02) -> list[Event | float]:
    told: list[Event | float] = [Preparing("loading the model"), PLAN, StatusChanged("training")]
    for step in range(1, 21):
        told += [pause_s, StepLogged(step, step / 20, 3 - step / 10, 1e-3, 1.0, 900.0, 2900.0, 2.0 * step)]
    return told


class Scripted:
    """A run whose worker tells a given story: events, and numbers for seconds to wait."""

    id = "lora-3f9a2c"
    spec = SimpleNamespace(name=None, method="lora", model="smollm2-135m", data="tickets", task="generation")
    metrics: ClassVar = {"train_loss": 1.0}
    facts, tags = Facts(), ()

    def __init__(self, listeners: Sequence[Listener], story: Sequence[Event | float], *, give_up: bool = False) -> None:
        self._listeners, self._story, self._give_up = listeners, story, give_up
        self._over = threading.Event()
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        for event in self._story:
            if isinstance(event, float):
                time.sleep(event)
                continue
            for listener in self._listeners:
                listener(event)
        self._over.set()

    def wait(self, timeout: float | None = None, tick: Callable[[], None] | None = None) -> Scripted:
        while not self._over.wait(0.05):
            if tick:
                tick()
            if self._give_up:
                raise RunError("given up")
        if isinstance(self._story[-1], StatusChanged) and self._story[-1].status == "failed":
            raise RunError("row 12 is empty")
        return self


def follow(story: Sequence[Event | float], *, give_up: bool = False, **options: Any) -> Any:
    def start(listeners: Sequence[Listener]) -> Any:
        return Scripted(listeners, story, give_up=give_up)

    return live.watch(start, **options)


class Recorder(surfaces.Surface):
    """Remembers what it was asked to show."""

    def __init__(self) -> None:
        self.drawn: list[tuple[str, RunView]] = []
        self.closed = threading.Event()

    def running(self, view: RunView, clock_s: float) -> None:
        self.drawn.append(("running", view))

    def ended(self, view: RunView, metrics: Mapping[str, Any], name: str | None) -> None:
        self.drawn.append(("ended", view))
        self.closed.set()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(live, "surface", lambda: recorder)
    return recorder


def test_listening_never_draws(recorder: Recorder) -> None:
    follower = live.Live()
    for event in steps(0.0):
        if not isinstance(event, float):
            follower(event)
    assert follower.view.step == 20
    assert recorder.drawn == []


def test_it_draws_at_most_five_times_a_second_and_once_at_the_end(recorder: Recorder) -> None:
    began = time.monotonic()
    run = follow([*steps(0.05), StatusChanged("finished")])
    seconds = time.monotonic() - began
    kinds = [kind for kind, _ in recorder.drawn]
    assert run.id == recorder.drawn[0][1].id == "lora-3f9a2c"
    assert 3 <= kinds.count("running") <= 5 * seconds + 1
    assert kinds.count("ended") == 1
    assert kinds[-1] == "ended"
    assert recorder.drawn[-1][1].status == "finished"


def test_nothing_is_drawn_again_while_nothing_but_the_clock_changes(recorder: Recorder) -> None:
    follower = live.Live()
    follower(PLAN)
    follower(StepLogged(1, 0.1, 3.0, 1e-3, 1.0, 900.0, 2900.0, 2.0))
    began = time.monotonic()
    while time.monotonic() - began < 1.5:
        follower.refresh()
        time.sleep(0.05)
    assert len(recorder.drawn) == 2


def test_while_nothing_is_known_the_clock_moves_once_a_second(recorder: Recorder) -> None:
    follower = live.Live()
    began = time.monotonic()
    while time.monotonic() - began < 2.3:
        follower.refresh()
        time.sleep(0.05)
    assert len(recorder.drawn) == 3


def test_a_failed_run_shows_its_end_and_raises(recorder: Recorder) -> None:
    with pytest.raises(RunError, match="row 12"):
        follow([Preparing("tokenizing"), 0.1, StatusChanged("failed", "row 12 is empty")])
    kind, view = recorder.drawn[-1]
    assert (kind, view.status, view.reason) == ("ended", "failed", "row 12 is empty")


def test_what_cannot_be_drawn_is_said_and_what_comes_next_is_drawn_again(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, broke = recorder.running, list[str]()

    def fail_once(view: RunView, clock_s: float) -> None:
        if not broke:
            raise ValueError("no such colour")
        draw(view, clock_s)

    def fail(*given: Any) -> None:
        recorder.closed.set()
        raise ValueError("no such shape")

    monkeypatch.setattr(recorder, "running", fail_once)
    monkeypatch.setattr(recorder, "broke", lambda error: broke.append(str(error)))
    monkeypatch.setattr(recorder, "ended", fail)
    for background in (False, True):
        broke.clear(), recorder.drawn.clear(), recorder.closed.clear()
        follow([*steps(), StatusChanged("finished")], background=background)
        assert recorder.closed.wait(10)
        assert broke[0] == "no such colour"
        assert len(recorder.drawn) >= 1
    time.sleep(0.05)
    assert broke == ["no such colour", "no such shape"]


def test_a_run_that_was_given_up_gets_its_summary_when_it_has_ended(recorder: Recorder) -> None:
    began = time.monotonic()
    with pytest.raises(RunError, match="given up"):
        follow([*steps(), 1.0, StatusChanged("stopped", "given up")], give_up=True)
    assert time.monotonic() - began < 1
    assert not recorder.closed.is_set()
    assert recorder.closed.wait(5)
    assert recorder.drawn[-1][1].reason == "given up"


def test_a_background_run_returns_at_once_and_its_summary_comes_before_wait_returns(
    recorder: Recorder,
) -> None:
    began = time.monotonic()
    run = follow([*steps(), StatusChanged("finished")], background=True)
    assert time.monotonic() - began < 0.2
    run.wait()
    assert recorder.closed.is_set()
    assert len(recorder.drawn) > 1


def test_what_a_resumed_run_says_before_it_works_does_not_end_the_panel(recorder: Recorder) -> None:
    stopped = RunView(status="stopped", reason="after step 3")
    follow([Notice("another run is active"), 0.3, StatusChanged("preparing"), StatusChanged("finished")], view=stopped)
    assert [kind for kind, _ in recorder.drawn].count("ended") == 1
    assert recorder.drawn[-1][1].status == "finished"


@pytest.mark.notebook
def test_a_background_run_updates_its_own_cell_while_others_run() -> None:
    here = str(Path(__file__).parent)
    sources = [
        f"import sys; sys.path[:0] = [{here!r}, {str(Path(here).parent)!r}]; from test_ui_live import *",
        "run = follow([*steps(0.05), StatusChanged('finished')], background=True, name='run')",
        "run.id",
        "run.wait().id",
        "other = follow([*steps(), StatusChanged('finished')], name='other')",
    ]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=60).execute()
    assert [output["data"]["text/plain"] for output in cells[2].outputs] == ["'lora-3f9a2c'"]
    for cell, name in ((cells[1], "run"), (cells[4], "other")):
        (output,) = cell.outputs
        assert output.output_type == "display_data"
        assert output["data"]["text/plain"].startswith("lora on smollm2-135m (lora-3f9a2c) finished\n")
        assert f"%peft save {name} my-adapter" in output["data"]["text/html"]
        assert "data:image/png;base64," in output["data"]["text/html"]

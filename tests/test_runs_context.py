"""How far a run is, said now and then, and given up when the user wants to stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest

from peft_nb.data import encoding
from peft_nb.events import Event as Told
from peft_nb.events import Preparing
from peft_nb.runs import context
from peft_nb.runs.context import Context
from peft_nb.runs.run import Run
from peft_nb.spec import RunSpec
from peft_nb.store import Facts
from peft_nb.tasks import TASKS
from peft_nb.training.stop import Abandoned

Start = Callable[..., Run]


def test_progress_is_told_and_a_run_can_be_stopped_meanwhile(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "PROGRESS_S", 0)
    monkeypatch.setattr(encoding, "BATCH", 5)
    run = start(max_steps=1).wait()
    told = [event.what for event in run.events() if isinstance(event, Preparing) and "tokenizing" in event.what]
    assert told == [f"tokenizing ({share}%)" for share in (0, 22, 43, 65, 87, 100)]
    started = Event()

    def stop(event: Any) -> None:
        if "tokenizing" in getattr(event, "what", ""):
            started.wait(60)
            stopped.stop()

    stopped = start(stop, max_length=64)
    started.set()
    assert (stopped.wait().status, stopped.reason) == ("stopped", "before the first step")
    shelf, kept = run.folder.parent.parent / "examples", json.loads((run.folder / "examples.json").read_text())
    assert [path.name for path in shelf.iterdir()] == kept["keys"]


def test_how_far_something_is_is_told_twice_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Told] = []
    one, clock = Context(RunSpec(data="x"), publish=heard.append), [100.0]
    monkeypatch.setattr(context.time, "monotonic", lambda: clock[0])
    for passed, share in ((0.0, 0.1), (0.3, 0.2), (0.3, 0.301), (0.1, 0.4), (0.6, 1.0)):
        clock[0] += passed
        one.progress(share, "counting")
    assert heard == [Preparing(f"counting ({share})") for share in ("10%", "30%", "100%")]


def test_who_wants_to_stop_is_heard_at_every_word_on_how_far_something_is() -> None:
    one = Context(RunSpec(data="x"))
    one.heed_stop()
    one.progress(0.5, "counting")
    one.stop.soon.set()
    for heed in (one.heed_stop, lambda: one.progress(0.6, "counting")):
        with pytest.raises(Abandoned, match="^before the first step$"):
            heed()


def test_facts_are_added_to_and_no_other_run_has_them() -> None:
    one, other = (Context(RunSpec(data="x", task="classification")) for _ in range(2))
    one.note(data="rows", dtype="float32")
    one.note(dtype="bfloat16")
    one.facts.task["classes"] = ["a"]
    one.metrics["steps"] = 3
    one.stop.soon.set()
    assert one.facts == Facts(data="rows", dtype="bfloat16", task={"classes": ["a"]})
    assert (other.facts, other.metrics, other.stop.soon.is_set()) == (Facts(), {}, False)
    assert one.task is TASKS["classification"]

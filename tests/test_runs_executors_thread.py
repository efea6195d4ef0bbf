"""Work in a thread of its own: begun, asked to end, waited for."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from peft_nb.events import Event, Listener, Preparing
from peft_nb.runs.executors.thread import Thread
from peft_nb.training.stop import StopFlag


def test_before_anything_was_begun_nothing_is_at_work() -> None:
    executor = Thread()
    assert executor.wait(0)
    assert not executor.stopping


def test_the_work_is_done_beside_and_tells_its_events() -> None:
    executor, heard, go = Thread(), list[Event](), threading.Event()

    def work(flag: StopFlag, events: Listener) -> None:
        events(Preparing(threading.current_thread().name))
        go.wait(10)
        events(Preparing("the end"))

    executor.start(work, heard.append, "a-run")
    assert not executor.wait(0.01)
    go.set()
    assert executor.wait(10)
    assert heard == [Preparing("a-run"), Preparing("the end")]


@pytest.mark.parametrize("now", [False, True])
def test_the_work_is_asked_to_end_and_its_successor_is_not(now: bool) -> None:
    executor, ended, seen = Thread(), threading.Event(), list[Any]()

    def work(flag: StopFlag, events: Listener) -> None:
        seen.append(flag.soon.wait(10 if not ended.is_set() else 0))
        seen.append(flag.now.wait(10 if now and not ended.is_set() else 0))

    executor.start(work, lambda event: None, "first")
    executor.stop(now=now)
    assert executor.wait(10)
    assert (seen, executor.stopping) == ([True, now], True)
    ended.set()
    executor.start(work, lambda event: None, "second")
    assert executor.wait(10)
    assert (seen[2:], executor.stopping) == ([False, False], False)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_work_that_breaks_leaves_nobody_waiting() -> None:
    executor = Thread()
    executor.start(lambda flag, events: 1 / 0, lambda event: None, "broken")  # type: ignore[arg-type, return-value]
    assert executor.wait(10)

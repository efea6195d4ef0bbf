"""What a run tells is kept and heard once, whatever listeners and the disk do meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from peft_nb.errors import RunError, StoreError
from peft_nb.events import Event, Notice, Preparing, StatusChanged, StepLogged, TimeLeft
from peft_nb.runs.record import RunRecord
from peft_nb.runs.run import Run
from peft_nb.store import Facts, Store
from tests import stores
from tests.conftest import file_size_limit

Start = Callable[..., Run]


@pytest.fixture
def record(store: Store) -> RunRecord:
    return RunRecord(store.get(stores.new(store)), store)


def notices(run: Run) -> str:
    return "\n".join(event.text for event in run.events() if isinstance(event, Notice))


def test_a_failing_listener_is_dropped_and_told_of(start: Start) -> None:
    heard: list[Event] = []

    def failing(event: Event) -> None:
        if isinstance(event, StepLogged):
            raise ValueError("the browser is gone")

    run = start(failing, heard.append, max_steps=3).wait()
    assert run.status == "finished"
    assert notices(run).count("a listener failed and was dropped: ValueError: the browser is gone") == 1
    kept = [event for event in heard if not isinstance(event, TimeLeft)]
    assert sorted(map(repr, kept)) == sorted(map(repr, run.events()))


def fail(event: Event) -> None:
    raise ValueError("the browser is gone")


def test_what_is_published_is_kept_and_told_and_what_is_told_alone_is_not_kept(record: RunRecord) -> None:
    heard: list[Event] = []
    record.hear([heard.append])
    record.publish(Preparing("one"))
    record.tell(Preparing("two"))
    record.keep(StatusChanged("training"))
    assert heard == [Preparing("one"), Preparing("two")]
    assert record.store.events(record.id) == [Preparing("one"), StatusChanged("training")]
    assert record.status == "training"


def test_who_listens_later_gets_what_was_told_before_and_hears_the_rest_once(record: RunRecord) -> None:
    heard: list[Event] = []
    record.publish(Preparing("one"))
    heard += record.listen(heard.append)
    record.publish(Preparing("two"))
    assert heard == [Preparing("one"), Preparing("two")]
    record.hear([])
    record.publish(Preparing("three"))
    assert len(heard) == 2


def test_listeners_that_fail_are_dropped_one_by_one_and_the_others_hear_why(record: RunRecord) -> None:
    heard: list[Event] = []
    record.hear([fail, heard.append])
    record.publish(Preparing("one"))
    record.publish(Preparing("two"))
    told = Notice("a listener failed and was dropped: ValueError: the browser is gone")
    assert heard == [told, Preparing("one"), Preparing("two")]
    assert record.store.events(record.id) == [Preparing("one"), told, Preparing("two")]


def test_two_listeners_that_fail_at_once_are_both_dropped(record: RunRecord) -> None:
    heard: list[Event] = []
    record.hear([fail, lambda event: fail(event), heard.append])
    record.publish(Preparing("one"))
    record.publish(Preparing("two"))
    assert [event for event in heard if isinstance(event, Preparing)] == [Preparing("one"), Preparing("two")]
    assert len([event for event in heard if isinstance(event, Notice)]) == 2


def test_what_the_disk_refuses_is_written_later_in_its_order(record: RunRecord) -> None:
    heard: list[Any] = []
    record.hear([heard.append])
    steps = [stores.step(n) for n in range(1, 4)]
    with file_size_limit(1_000):
        for step in steps:
            record.publish(step)
        record.set({"train_loss": 2.0}, Facts(data="rows"))
        assert record.curve() == []  # nothing shall fail for a picture
    (notice,) = (event for event in heard if isinstance(event, Notice))
    assert notice.text.endswith("; the run goes on in memory")
    assert [event for event in heard if isinstance(event, StepLogged)] == steps
    assert record.store.events(record.id) == steps
    assert [row["step"] for row in record.curve()] == [1, 2, 3]
    assert (record.metrics, record.facts.data) == ({"train_loss": 2.0}, "rows")


def test_a_write_that_can_never_succeed_is_dropped_and_holds_nothing_up(record: RunRecord) -> None:
    with pytest.raises(RunError, match=r"^these metrics cannot be kept: seen \(set\); JSON holds "):
        record.set({"seen": {1, 2}, "steps": 3}, Facts(data="rows"))
    record.keep(StatusChanged("training"))
    assert (record.status, record.metrics, record.facts.data) == ("training", {"steps": 3}, "rows")
    with pytest.raises(TypeError):
        record.publish(Notice({1, 2}))  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=r"^cannot use .*: FOREIGN KEY constraint failed$"):
        record.write(partial(break_the_index, record.store))
    record.publish(Preparing("one"))
    assert record.store.events(record.id) == [StatusChanged("training"), Preparing("one")]
    record.keep(StatusChanged("failed", "no such file: caf\udce9.csv"))
    assert (record.status, record.now.reason) == ("failed", "no such file: caf?.csv")


def break_the_index(store: Store) -> None:
    with store._index.writing() as db:
        db.execute("INSERT INTO history (run, step) VALUES ('nobody', 1)")

"""Events are facts that do not change, and come back from JSON as they were."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, fields
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_nb.events import ACTIVE, KINDS, Event, Level, Status, StatusChanged, StepLogged, from_json, to_json

VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(),
    int: st.integers(),
    float: st.floats(allow_nan=False),
    float | None: st.none() | st.floats(allow_nan=False),
    Status: st.sampled_from(get_args(Status)),
    Level: st.sampled_from(get_args(Level)),
    dict[str, float]: st.dictionaries(st.text(), st.floats(allow_nan=False)),
}


def every_event() -> st.SearchStrategy[Event]:
    kinds = [
        st.builds(kind, **{name: VALUES[hint] for name, hint in get_type_hints(kind).items()})
        for kind in KINDS.values()
    ]
    return st.one_of(kinds)


@given(every_event())
def test_an_event_comes_back_from_json_as_it_was(event: Event) -> None:
    assert from_json(*json.loads(json.dumps(to_json(event)))) == event


def test_a_loss_that_is_no_number_comes_back_too() -> None:
    sent = StepLogged(1, 0.1, math.nan, 1e-4, math.inf, 10.0, 100.0, 1.0)
    again = from_json(*json.loads(json.dumps(to_json(sent))))
    assert isinstance(again, StepLogged)
    assert math.isnan(again.loss)
    assert again.grad_norm == math.inf


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_is_frozen(kind: type[Event]) -> None:
    event = kind(**{field.name: 0 for field in fields(kind)})
    with pytest.raises(FrozenInstanceError):
        setattr(event, fields(kind)[0].name, 1)


def test_the_kinds_are_all_that_an_event_can_be() -> None:
    assert tuple(KINDS.values()) == get_args(Event)


def test_a_run_that_may_still_change_is_active() -> None:
    assert {*get_args(Status)} - ACTIVE == {"finished", "stopped", "failed"}
    assert StatusChanged("failed", "why") == StatusChanged("failed", reason="why")

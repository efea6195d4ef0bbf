"""What another process tells, as it arrives here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peft_nb.errors import DataError, MergeError, RunError, SpecError
from peft_nb.events import Checkpointed, Evaluated, Event, to_json
from peft_nb.runs.context import Context
from peft_nb.runs.executors.relay import take
from peft_nb.runs.pipeline import Outcome
from peft_nb.spec import RunSpec
from peft_nb.store import Facts
from peft_nb.training.stop import Abandoned

STATE: dict[str, Any] = {"metrics": {"steps": 8}, "facts": Facts(device="cuda").to_json()}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(RunSpec(data="x"), folder=tmp_path, facts=Facts(place="127.0.0.1:6379"), metrics={"examples": 2})


def test_events_are_told_and_a_checkpoint_is_where_it_is_here(context: Context) -> None:
    heard: list[Event] = []
    context.publish = heard.append
    for event in (Evaluated(4, 1.5), Checkpointed(4, "/far/away/checkpoints/checkpoint-4")):
        kind, fields = to_json(event)
        assert take(context, "event", {"kind": kind, "fields": fields}) is None
    assert heard == [Evaluated(4, 1.5), Checkpointed(4, str(context.folder / "checkpoints" / "checkpoint-4"))]


def test_metrics_and_facts_are_taken_over_but_for_the_place(context: Context) -> None:
    assert take(context, "state", STATE) is None
    assert context.metrics == {"examples": 2, "steps": 8}
    assert context.facts == Facts(device="cuda", place="127.0.0.1:6379")


@pytest.mark.parametrize("how", ["finished", "stopped"])
def test_the_end_is_an_outcome(how: str, context: Context) -> None:
    outcome = take(context, "end", {**STATE, "how": how, "evaluation": {"missing": {}}})
    assert outcome == Outcome(how == "finished", {"missing": {}})


def test_a_run_that_was_given_up_is_given_up_here(context: Context) -> None:
    with pytest.raises(Abandoned, match="before the first step"):
        take(context, "end", {**STATE, "how": "abandoned", "reason": "before the first step"})


@pytest.mark.parametrize("kind", [DataError, SpecError, MergeError, RunError])
def test_an_error_is_of_the_class_that_it_had_there(kind: type[Exception], context: Context) -> None:
    with pytest.raises(kind, match="^rows: none") as raised:
        take(context, "end", {**STATE, "how": "failed", "error": kind.__name__, "reason": "rows: none"})
    assert type(raised.value) is kind


def test_the_story_of_what_nobody_foresaw_is_kept(context: Context) -> None:
    told = {**STATE, "how": "failed", "error": "", "reason": "KeyError: 'x'", "story": "Traceback …"}
    with pytest.raises(RunError, match=r"^KeyError: 'x' \(the whole story is in "):
        take(context, "end", told)
    assert (context.folder / "error.txt").read_text() == "Traceback …"

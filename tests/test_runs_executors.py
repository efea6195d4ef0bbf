"""What a run cannot take to another process."""

from __future__ import annotations

import pytest

from peft_nb.errors import SpecError
from peft_nb.runs.context import Inputs
from peft_nb.runs.executors import EXECUTORS, refuse
from peft_nb.spec import RunSpec
from peft_nb.spec.place import KINDS, Place


def test_every_kind_of_place_has_an_executor() -> None:
    assert EXECUTORS.keys() == KINDS.keys()
    assert all(callable(make(Place(kind)).train) for kind, make in EXECUTORS.items())


def shout(completion: str) -> float:
    return completion.count("!")


@pytest.mark.parametrize(
    ("fields", "inputs", "line"),
    [
        (
            {"model": "mine"},
            Inputs(namespace={"mine": (object(), object())}),
            "model: mine is a live model, which stays",
        ),
        (
            {"task": "grpo", "reward": "shout"},
            Inputs(namespace={"shout": shout}),
            "reward: shout is a function that stays",
        ),
        ({"task": "grpo", "reward": "(in memory)"}, Inputs(reward=shout), "reward: it is a function that stays"),
        ({"score": "shout"}, Inputs(namespace={"shout": shout}), "score: shout is a function that stays"),
    ],
)
def test_what_lives_in_the_notebook_is_refused_elsewhere(fields: dict[str, str], inputs: Inputs, line: str) -> None:
    spec = RunSpec(data="x", **fields)
    refuse(Place(), spec, inputs)
    with pytest.raises(SpecError) as refused:
        refuse(Place("local:2", 2), spec, inputs)
    assert str(refused.value).startswith(line)
    assert len(refused.value.problems) == 1


def test_what_a_module_holds_goes_everywhere() -> None:
    refuse(Place("ray"), RunSpec(data="x", task="grpo", reward="json:dumps"), Inputs(namespace={"x": [{"a": "b"}]}))

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peft_nb.runs.context import Inputs
from peft_nb.runs.rows import read
from peft_nb.runs.sweeps.forecast import corners, foresee, notes
from peft_nb.runs.sweeps.search import Search
from peft_nb.spec import RunSpec
from peft_nb.spec.place import Place
from peft_nb.spec.sweep import SweepSpec

SPACE = {"method": ["lora", "ia3"], "r": {"low": 2, "high": 16}, "learning_rate": [1e-3, 1e-2]}


def test_each_method_is_estimated_at_its_largest() -> None:
    first, second = corners(SweepSpec(data="tickets", sweep=SPACE, max_steps=20), 50)
    assert first == RunSpec(data="tickets", method="lora", r=16, learning_rate=1e-2, max_steps=20, eval_steps=2)
    assert (second.method, second.r, second.learning_rate) == ("ia3", None, 1e-2)
    (alone,) = corners(SweepSpec(data="tickets", method="dora", sweep={"r": [4, 8, 2]}), 50)
    assert (alone.method, alone.r) == ("dora", 8)


def test_what_a_reader_would_not_expect_is_noted() -> None:
    spec = SweepSpec(data="tickets", sweep=SPACE, minimize=["eval_loss", "adapter_mb"], parallel=2)
    unranked, unstopped, slow = notes(spec, Place())
    assert unranked == "r: ia3 has no rank; its trials leave it out"
    assert unstopped.startswith("no trial is stopped early, since minimize is eval_loss, adapter_mb: ")
    assert slow.startswith("2 trials at once")
    assert len(list(notes(spec, Place(on="ray")))) == 2
    assert list(notes(SweepSpec(data="tickets", sweep={"r": [4, 8]}), Place())) == []


def test_the_whole_is_the_sum_of_its_trials(swept: Search, rows: list[dict[str, str]]) -> None:
    told = swept.record.forecast
    assert told["trials"] == 8
    assert told["seconds"] > 0
    assert 0 < told["memory_mb"] < told["room_mb"]
    inputs = Inputs(data=rows)
    _, table, facts = read(swept.spec.run, inputs)

    def seconds(**changes: Any) -> float:
        return foresee(SweepSpec(**{**swept.spec.changed(), **changes}), table, facts, inputs).seconds or 0.0

    assert seconds(trials=4) < seconds(trials=8)
    assert seconds(minutes=1e-3) <= 0.06


def test_a_trial_that_cannot_be_estimated_is_told(spec: Callable[..., RunSpec], rows: list[dict[str, str]]) -> None:
    space = {"method": ["lora", "qlora"], "learning_rate": [1e-3, 1e-2]}
    common = {name: value for name, value in spec(target_modules=["nothing"]).changed().items() if name not in space}
    wanted, inputs = SweepSpec(**common, sweep=space), Inputs(data=rows)
    _, table, facts = read(wanted.run, inputs)
    found = foresee(wanted, table, facts, inputs)
    assert found.seconds is None
    assert [line.partition(":")[0] for line in found.untold] == ["lora", "qlora"]

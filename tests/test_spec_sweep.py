from __future__ import annotations

import math
from typing import Any

import pytest

import peft_nb.methods  # noqa: F401  (registers the methods)
from peft_nb.errors import SpecError
from peft_nb.spec import RunSpec, notation
from peft_nb.spec.sweep import OPTIONS, Range, SweepSpec, Values, described, key

SPACE = {"learning_rate": ["1e-4", "3e-4", "1e-3"], "r": {"low": "4", "high": "64", "log": "true"}}


def sweep(**fields: Any) -> SweepSpec:
    return SweepSpec(**{"data": "tickets", "sweep": SPACE, **fields})


def test_values_are_read_as_their_field_reads_them_and_the_method_comes_first() -> None:
    spec = sweep(sweep={**SPACE, "method": ["lora", "ia3"], "target_modules": [None, ["q_proj", "v_proj"]]})
    assert list(spec.space) == ["method", "r", "target_modules", "learning_rate"]
    assert spec.space["learning_rate"] == Values((1e-4, 3e-4, 1e-3))
    assert spec.space["r"] == Range(4, 64, log=True, whole=True)
    assert spec.space["target_modules"].holds(["q_proj", "v_proj"])
    assert spec.space["r"].holds(8)
    assert not spec.space["r"].holds(128)
    assert spec.size == 2 * 61 * 2 * 3


def test_it_is_written_and_read_back() -> None:
    spec = sweep(trials=30, minimize=["eval_loss", "forgetting"], search="random", batch_size=4, name="tickets")
    again = SweepSpec.from_yaml(spec.to_yaml())
    assert again.changed() == spec.changed()
    assert again.space == spec.space
    assert again.run == spec.run == RunSpec(data="tickets", batch_size=4, name="tickets")


def test_a_cell_says_it_in_its_line_and_its_body() -> None:
    line, body = (
        "lora --data tickets --trials 12 --search random",
        "sweep: {learning_rate: [1e-4, 3e-4]}\nminutes: 20\n",
    )
    cell = notation.parse_cell(line, body, [*RunSpec.describe(), *SweepSpec.describe()])
    spec = described(cell.fields)
    assert spec is not None
    assert (spec.trials, spec.minutes, spec.search, spec.run.method) == (12, 20.0, "random", "lora")
    assert {*OPTIONS} == {field.name for field in SweepSpec.describe()}


def test_a_trial_is_a_run_without_the_name() -> None:
    trial = sweep(name="tickets", batch_size=4).trial({"learning_rate": 3e-4, "r": 8})
    assert trial == RunSpec(data="tickets", batch_size=4, learning_rate=3e-4, r=8)
    assert sweep(epochs=2, batch_size=5).trial({"r": 8}, rows=100).eval_steps == 2 * 90 // 5 // 9
    assert sweep(max_steps=18, batch_size=5).trial({"r": 8}, rows=100, eval_rows=5).eval_steps == 2
    assert sweep(max_steps=18, batch_size=5).trial({"r": 8}, rows=100, eval_rows=90).eval_steps == 6
    assert sweep(eval_steps=7).trial({"r": 8}, rows=100).eval_steps == 7
    assert sweep(minimize=["adapter_mb", "eval_loss"]).trial({"r": 8}, rows=100).eval_steps is None
    assert key({"r": 8, "learning_rate": 3e-4}) == key({"learning_rate": 3e-4, "r": 8})


@pytest.mark.parametrize(
    ("fields", "most", "halves"),
    [
        ({}, 12, True),
        ({"trials": 3}, 3, True),
        ({"minutes": 5}, 3 * 61, True),
        ({"sweep": {"r": [4, 8]}}, 2, True),
        ({"sweep": {"learning_rate": {"low": 1e-4, "high": 1e-3}}, "minutes": 5}, math.inf, True),
        ({"sweep": {"r": [4, 8], "method": ["lora", "dora"]}, "search": "grid"}, 4, False),
        ({"minimize": ["eval_loss", "adapter_mb"]}, 12, False),
    ],
)
def test_how_many_trials_there_are_and_whether_poor_ones_stop(
    fields: dict[str, Any], most: float, halves: bool
) -> None:
    spec = sweep(**fields)
    assert (spec.most, spec.halves) == (most, halves)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"sweep": {"lr": [1, 2]}}, "sweep: lr: no such field; did you mean 'learning_rate'?"),
        ({"sweep": {"r": 8}}, "sweep: r: 8 is one value; write a list, or {low: 4, high: 64}"),
        ({"sweep": {"method": "lora"}}, "sweep: method: 'lora' is one value; write a list"),
        ({"sweep": {"r": [8, "8"]}}, "sweep: r: [8, '8'] is no list of two or more different values"),
        ({"sweep": {"r": [8, "x"]}}, "sweep: r: 'x' is not a finite number; write digits, such as 3 or 2e-4"),
        (
            {"sweep": {"r": {"low": 8}}},
            "sweep: r: {'low': 8} is no range; write {low: 4, high: 64}, with log: true or not",
        ),
        ({"sweep": {"r": {"low": 8, "high": 4}}}, "sweep: r: low (8) has to be below high (4)"),
        (
            {"sweep": {"weight_decay": {"low": 0, "high": 1, "log": True}}},
            "sweep: weight_decay: low (0.0) has to be above 0 where log is true",
        ),
        ({"sweep": {"method": ["lora", "lorra"]}}, "sweep: method: no method is called 'lorra'; did you mean 'lora'?"),
        ({"sweep": {"r": [4, 8]}, "r": 4}, "sweep: r: is given twice, for all trials and as what they vary; keep one"),
        (
            {"sweep": {"eval_data": ["a", "b"]}},
            "sweep: eval_data: trials that differ in it cannot be compared; a sweep varies fields of the method and of "
            "training",
        ),
        (
            {"sweep": {"seed": [1, 2]}},
            "sweep: seed: chooses the evaluation set too, so trials could not be compared; give eval_data",
        ),
        (
            {"sweep": {"beta": [0.1, 0.2]}},
            "sweep: beta: changes what the loss is, so eval losses cannot be compared; name other metrics in minimize",
        ),
        ({"search": "grid"}, "search: grid runs lists alone; r: write the values as a list, or search: tpe"),
        (
            {"minimize": "accuracy"},
            "minimize: accuracy is better when it is high; search by eval_loss and take sweep.best(by='accuracy')",
        ),
        ({"minimize": "eval_los"}, "minimize: no metric is called 'eval_los'; did you mean 'eval_loss'?"),
        ({"eval_fraction": 0}, "minimize: eval_loss needs an evaluation set; give eval_data or eval_fraction"),
        ({"trials": 0}, "trials: 0 is below the smallest allowed value 1"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError) as refused:
        sweep(**fields)
    assert problem in refused.value.problems


def test_options_without_a_sweep_are_refused() -> None:
    assert described({"data": "tickets"}) is None
    with pytest.raises(SpecError, match=r"^trials: belongs to a sweep, and no field takes several values here; add"):
        described({"data": "tickets", "trials": 3})


def test_a_sweep_never_changes() -> None:
    with pytest.raises(SpecError, match=r"^trials: a sweep never changes"):
        sweep().trials = 3

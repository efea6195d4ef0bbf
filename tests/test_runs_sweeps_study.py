from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from optuna.pruners import NopPruner

import peft_nb.methods  # noqa: F401  (registers the methods)
from peft_nb.errors import RunError
from peft_nb.runs.sweeps.study import Study, importances, results
from peft_nb.spec.sweep import SweepSpec, key
from peft_nb.store import Trial

SPACE = {"learning_rate": [1e-4, 1e-3, 3e-4], "r": [4, 8], "method": ["lora", "ia3"]}


def sweep(**fields: Any) -> SweepSpec:
    return SweepSpec(**{"data": "tickets", "sweep": SPACE, **fields})


def distance(values: dict[str, Any]) -> list[float]:
    """Lowest at a learning rate of 3e-4 with LoRA."""
    return [abs(math.log10(values["learning_rate"] / 3e-4)) + (values["method"] == "ia3")]


def run_all(study: Study, measure: Callable[[dict[str, Any]], Sequence[float]]) -> list[dict[str, Any]]:
    tried = []
    while given := study.ask():
        asked, values = given
        tried.append(values)
        study.tell(asked, values, measure(values), "finished")
    return tried


@pytest.mark.parametrize("search", ["tpe", "random", "grid"])
def test_every_combination_is_tried_once_and_no_method_gets_a_field_it_has_not(search: str) -> None:
    tried = run_all(Study(sweep(search=search)), distance)
    assert len(tried) == len({key(values) for values in tried}) == 3 * 2 + 3
    assert all(("r" in values) == (values["method"] == "lora") for values in tried)


def test_tpe_finds_a_lower_point_than_its_first_draws() -> None:
    space = {"learning_rate": {"low": 1e-6, "high": 1e-1, "log": True}, "method": ["lora", "ia3"]}
    study, found = Study(sweep(sweep=space, trials=40)), []
    for _ in range(40):
        asked, values = study.ask() or pytest.fail("nothing was asked")
        found.append(distance(values)[0])
        study.tell(asked, values, [found[-1]], "finished")
        assert values["learning_rate"] == float(f"{values['learning_rate']:.3g}")
    assert min(found) < 0.1
    assert sum(found[20:]) < sum(found[:20])


def test_poor_trials_are_to_stop_and_the_best_go_on() -> None:
    study = Study(sweep(sweep={"learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}}))
    stopped = []
    for loss in (2.0, 1.0, 3.0, 1.5, 0.5):
        asked, values = study.ask() or pytest.fail("nothing was asked")
        stopped.append(study.report(asked, loss, 1))
        study.tell(asked, values, None if stopped[-1] else [loss], "pruned" if stopped[-1] else "finished")
    assert stopped == [False, False, True, True, False]
    assert study.standing(1, 0.5) == (1, 5)
    asked, _ = study.ask() or pytest.fail("nothing was asked")
    assert study.report(asked, math.nan, 1)


def test_none_is_stopped_in_a_grid_nor_for_several_metrics_nor_by_a_pruner_that_stops_none() -> None:
    several = Study(sweep(minimize=["eval_loss", "adapter_mb"]))
    for study in (Study(sweep(search="grid")), several, Study(sweep(), pruner=NopPruner())):
        for loss in (1.0, 2.0, 3.0):
            asked, _ = study.ask() or pytest.fail("nothing was asked")
            assert not study.report(asked, loss, 1)


def test_what_is_enqueued_comes_first_and_what_the_sweep_does_not_hold_is_left_out() -> None:
    study = Study(sweep(sweep={**SPACE, "target_modules": [None, ["q_proj", "v_proj"]]}))
    wanted = {"method": "lora", "r": 8, "learning_rate": 3e-4, "target_modules": ["q_proj", "v_proj"]}
    assert not study.enqueue({**wanted, "r": 5})
    assert study.enqueue({**wanted, "alpha": 3.0})
    _, values = study.ask() or pytest.fail("nothing was asked")
    assert values == wanted


def of(number: int, values: dict[str, Any], state: Any, *losses: float) -> Trial:
    metrics = {"eval_loss": losses[-1], "adapter_mb": 1.0} if state == "finished" else {}
    return Trial(number, values, state, "", "run", metrics, tuple(enumerate(losses, 1)), 0.0, 1.0)


def test_a_study_is_made_anew_of_its_trials() -> None:
    spec = sweep(sweep={"learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}})
    before = [of(1, {"learning_rate": 1e-3}, "finished", 2.0, 1.0), of(2, {"learning_rate": 1e-4}, "pruned", 3.0)]
    study = Study(spec)
    for trial in before:
        found = results(spec, trial.metrics) if trial.state == "finished" else None
        study.tell(study.replay(trial), trial.values, found, trial.state)
    assert study.standing(1, 2.5) == (2, 2)
    asked, _ = study.ask() or pytest.fail("nothing was asked")
    assert study.report(asked, 2.5, 1)
    assert not study.report((study.ask() or pytest.fail("nothing was asked"))[0], 1.5, 1)


def test_the_field_that_makes_the_difference_is_the_important_one() -> None:
    study = Study(sweep(search="grid"))
    run_all(study, distance)
    shares = study.importances()
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["r"] == min(shares.values())
    values = [{"learning_rate": rate, "r": r, "method": "lora"} for rate in (1e-4, 3e-4, 1e-3) for r in (4, 8)]
    trials = [of(number, one, "finished", distance(one)[0]) for number, one in enumerate(values, 1)]
    assert importances(sweep(), trials)["learning_rate"] > 0.9
    assert importances(sweep(), trials[:3]) == {}


def test_without_optuna_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RunError, match=r"^a sweep needs the package optuna; %pip install 'peft_nb\[sweep\]'$"):
        Study(sweep())
    assert importances(sweep(), []) == {}

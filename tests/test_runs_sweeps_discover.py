from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peft_nb.runs.context import Inputs
from peft_nb.runs.run import Run
from peft_nb.runs.sweeps.discover import plan
from peft_nb.spec.sweep import Range, Values
from peft_nb.store import Store

FIELDS = {"data": "(in memory)", "dtype": "float32", "device": "cpu"}


@pytest.fixture
def fields(base: Path) -> dict[str, Any]:
    return {**FIELDS, "model": str(base), "max_steps": 4}


def test_the_advice_is_searched_from_its_own_settings(
    fields: dict[str, Any], rows: list[dict[str, str]], store: Store
) -> None:
    wanted = plan(fields, Inputs(data=rows), 30, store)
    methods = wanted.spec.space["method"]
    assert isinstance(methods, Values)
    assert wanted.told == (f"methods by %peft advise: {', '.join(methods.values)}",)
    assert wanted.spec.space["r"] == Range(4, 64, log=True, whole=True)
    assert wanted.spec.space["target_modules"] == Values((None, ["q_proj", "v_proj"]))
    rate = wanted.spec.space["learning_rate"]
    assert isinstance(rate, Range)
    assert [one["method"] for one in wanted.first] == list(methods.values)
    assert all(rate.holds(one["learning_rate"]) for one in wanted.first)
    assert all(one["target_modules"] is None for one in wanted.first)  # as the advised cells have it
    assert wanted.spec.minimize == ["eval_loss", "forgetting", "adapter_mb"]
    assert (wanted.spec.minutes, wanted.spec.trials, wanted.spec.run.max_steps) == (30, None, 4)


def test_earlier_runs_on_the_same_rows_are_gone_on_from(
    fields: dict[str, Any], rows: list[dict[str, str]], finished: Run
) -> None:
    wanted = plan({**fields, "model": finished.spec.model}, Inputs(data=rows), 30, finished.store)
    assert wanted.told[1] == f"settings of run {finished.id}, which learned these rows, are tried too"
    assert wanted.first[-1] == {"method": "lora", "r": 16, "learning_rate": 1e-2, "target_modules": None}
    others = plan({**fields, "model": finished.spec.model}, Inputs(data=rows[1:]), 30, finished.store)
    assert "which learned other rows of this layout" in others.told[1]


def test_what_is_fixed_is_not_varied(fields: dict[str, Any], rows: list[dict[str, str]], store: Store) -> None:
    fixed = {**fields, "method": "lora", "r": 8, "target_modules": ["q_proj"]}
    wanted = plan(fixed, Inputs(data=rows), 5, store)
    assert list(wanted.spec.space) == ["learning_rate"]
    assert (wanted.spec.run.method, wanted.spec.run.r) == ("lora", 8)


def test_trials_are_short_enough_for_the_time(fields: dict[str, Any], rows: list[dict[str, str]], store: Store) -> None:
    del fields["max_steps"]
    wanted = plan(fields, Inputs(data=rows), 0.001, store)
    assert wanted.spec.run.epochs < 1
    assert wanted.told[1].startswith(f"each trial trains for {wanted.spec.run.epochs:g} epochs, so that about 8 fit")
    assert plan(fields, Inputs(data=rows), 600, store).spec.run.epochs == 3.0


def test_a_classifier_forgets_nothing_that_is_measured(
    encoder: Path, labelled: list[dict[str, str]], store: Store, spec: Callable[..., Any]
) -> None:
    wanted = plan({**FIELDS, "model": str(encoder), "max_steps": 4}, Inputs(data=labelled[:60]), 5, store)
    assert wanted.spec.run.task == "classification"
    assert wanted.spec.minimize == ["eval_loss", "adapter_mb"]

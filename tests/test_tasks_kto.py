"""Whole runs that learn from answers rated good or bad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from peft_nb.errors import DataError
from peft_nb.events import Notice
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests.conftest import stop_at

Rate = Callable[..., Run]


@pytest.fixture(scope="module")
def rated(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Each question with its answer, which is good, and with that of the next row, which is not."""
    good = [{"prompt": row["question"], "completion": row["answer"], "label": True} for row in rows]
    return good + [
        {"prompt": row["question"], "completion": other["answer"], "label": False}
        for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)
    ]


@pytest.fixture(scope="module")
def rate(spec: Callable[..., RunSpec], rated: list[dict[str, Any]], runs: Store) -> Rate:
    """Train on the rated answers, which are evaluated on too."""

    def rate(*listeners: Any, **fields: Any) -> Run:
        usual = {"eval_data": "rated", "max_steps": 6, "eval_steps": 3, "learning_rate": 3e-3, "batch_size": 12}
        return begin(
            spec(**{**usual, **fields}), data=rated, namespace={"rated": rated}, store=runs, listeners=listeners
        ).wait()

    return rate


@pytest.fixture(scope="module")
def run(rate: Rate) -> Run:
    return rate(judge="quick")


def losses(run: Run) -> list[float]:
    return run.history["loss"].dropna().tolist()


def test_rated_answers_choose_the_task_and_are_told_apart(run: Run) -> None:
    assert run.spec.task == "kto"
    assert any(event.text.startswith("task kto") for event in run.events() if isinstance(event, Notice))
    assert losses(run)[0] == pytest.approx(0.5, abs=1e-6)
    assert run.history["margin"].dropna().iloc[0] == pytest.approx(0, abs=1e-5)
    assert run.metrics["base_preference_accuracy"] == pytest.approx(0.5)
    assert run.metrics["preference_accuracy"] > 0.6
    low, high = run.metrics["preference_accuracy_interval"]
    assert 0.5 < low < run.metrics["preference_accuracy"] < high <= 1
    assert run.metrics["base_eval_chosen_logps"] < 0
    assert run.metrics["eval_margin"] > 0.01
    assert run.metrics["eval_loss"] < 0.5
    assert run.history["margin"].notna().sum() >= 6


def test_micro_batches_and_stops_change_nothing(rate: Rate, run: Run, runs: Store) -> None:
    assert losses(rate(token_budget=64)) == pytest.approx(losses(run), abs=1e-4)
    stopped = rate(stop_at(2))
    assert losses(load(stopped.id, store=runs).resume()) == pytest.approx(losses(run), rel=1e-5)


def test_weights_make_up_for_unequal_numbers(rate: Rate) -> None:
    assert losses(rate(undesirable_weight=3, max_steps=1))[0] == pytest.approx(1.0, abs=0.35)


def test_good_and_bad_answers_are_never_learned_alike(rate: Rate) -> None:
    with pytest.raises(DataError, match="task: kto"):
        rate(task="generation")

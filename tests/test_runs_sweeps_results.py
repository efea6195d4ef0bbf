from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from peft_nb.errors import RunError
from peft_nb.runs.sweeps import results
from peft_nb.runs.sweeps.search import Search
from peft_nb.store import SweepRecord, Trial


def with_metrics(record: SweepRecord, *measured: dict[str, Any]) -> SweepRecord:
    """The same sweep, with other numbers of its first trials."""
    first = record.trials[0]
    trials = [replace(first, number=n, metrics=one, state="finished") for n, one in enumerate(measured, 1)]
    return replace(record, trials=tuple(trials))


def test_the_table_has_a_row_a_trial(swept: Search) -> None:
    table = results.table(swept.spec, swept.record)
    assert list(table.index) == list(range(1, 9))
    assert list(table.columns[:5]) == ["method", "r", "learning_rate", "state", "eval_loss"]
    assert table["eval_loss"].notna().all()
    assert str(table["r"].dtype) == "Int64"
    assert table.loc[table["method"] == "ia3", "r"].isna().all()
    assert set(table["state"]) == {"finished", "pruned"}


def test_the_best_is_the_one_with_the_lowest_loss_that_finished(swept: Search) -> None:
    best, table = results.best(swept.record, "eval_loss"), results.table(swept.spec, swept.record)
    assert best.number == table[table["state"] == "finished"]["eval_loss"].idxmin()
    with pytest.raises(RunError, match=r"^eval_los is no metric that ranks trials; did you mean 'eval_loss'\?$"):
        results.best(swept.record, "eval_los")
    with pytest.raises(RunError, match=r"^sweep .* has no best trial: none has accuracy$"):
        results.best(swept.record, "accuracy")
    with pytest.raises(RunError, match="none has finished"):
        results.best(replace(swept.record, trials=()), "eval_loss")


def test_the_front_holds_what_none_beats(swept: Search) -> None:
    measured = [(2.0, 1.0, 0.5), (1.0, 3.0, 0.5), (1.5, 2.0, 0.9), (2.0, 2.0, 0.5), (1.0, 3.0, 0.5)]
    record = with_metrics(
        swept.record, *({"eval_loss": a, "adapter_mb": b, "accuracy": c} for a, b, c in measured), {"eval_loss": 0.1}
    )
    numbers = lambda by: [one.number for one in results.front(record, by)]  # noqa: E731
    assert numbers(["eval_loss", "adapter_mb"]) == [2, 5, 3, 1]
    assert numbers(["eval_loss"]) == [6]
    assert numbers(["accuracy"]) == [3]
    with pytest.raises(RunError, match="steps is no metric"):
        results.front(record, ["steps"])


def test_the_best_so_far_only_gets_better(swept: Search) -> None:
    record = with_metrics(swept.record, *({"eval_loss": loss} for loss in (3.0, 4.0, 2.0)))
    seconds = record.trials[0].seconds
    assert results.so_far(record, "eval_loss") == [(seconds, 3.0), (3 * seconds, 2.0)]


def test_numbers_of_trials(swept: Search) -> None:
    trial: Trial = results.best(swept.record, "eval_loss")
    assert results.number(trial, "learning_rate") == trial.values["learning_rate"]
    assert results.number(trial, "seconds") == trial.seconds > 0
    assert results.number(trial, "method") is None
    stopped = next(one for one in swept.record.trials if one.state == "pruned")
    assert results.number(stopped, "eval_loss") == stopped.losses[-1][1]

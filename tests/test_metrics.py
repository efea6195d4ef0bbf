"""The table of metrics: complete, of one mind with those who read it, and open to metrics of others."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from peft_nb.adapters.card import CardInput, card
from peft_nb.errors import SpecError
from peft_nb.metrics import METRICS, Metric, comparable, demandable, evaluated, register
from peft_nb.runs.compare import Compared
from peft_nb.runs.evaluate import evaluations
from peft_nb.spec import RunSpec
from peft_nb.store import Evaluation, Facts
from peft_nb.ui import evaluation, side_by_side, wording

ERROR = Metric("rmse", "error", "EUR", "low", "held-out", "root of the mean squared error", "base_rmse", ("rows",))


@pytest.fixture
def error(monkeypatch: pytest.MonkeyPatch) -> Metric:
    """Register a metric of a task of one's own."""
    for name in (ERROR.name, ERROR.base):
        monkeypatch.setitem(METRICS, name, ERROR)  # so that it is taken back
        del METRICS[name]
    register(ERROR, Metric(ERROR.base, help="rmse of the base"))
    return ERROR


def test_every_metric_says_what_it_is() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.help
        assert not metric.base or metric.base in METRICS
        assert set(metric.on) <= {"rows", "tokens"}


def test_what_is_demanded_or_compared_has_a_title_and_a_known_unit() -> None:
    assert comparable().keys() <= demandable().keys()
    assert evaluated().keys() < comparable().keys()
    for metric in demandable().values():
        assert metric.title
        assert metric.unit in wording.SAID or metric.name == "tokens_per_second"
    assert {metric.suite for metric in demandable().values()} == {
        *("held-out", "documents", "regression", "probe", "benchmarks", "training", "cost")
    }
    assert {metric.suite for metric in evaluated().values()} == {
        "held-out",
        "documents",
        "regression",
        "probe",
        "benchmarks",
    }


def test_the_best_is_the_lowest_or_the_highest() -> None:
    assert METRICS["eval_loss"].best([2.0, 1.0, 3.0]) == 1.0
    assert METRICS["accuracy"].best([0.2, 0.3, 0.1]) == 0.3


def test_a_metric_of_ones_own_can_be_demanded(error: Metric) -> None:
    assert RunSpec(data="x", accept={"rmse": "<2"}).accept == {"rmse": "< 2"}
    line = {"metric": "rmse", "wanted": "< 2", "got": 1.5, "passed": True, "why": ""}
    assert evaluation.verdict({"criteria": [line]}).endswith("Error 1.5, should be below 2.")


def test_a_metric_of_ones_own_is_gone_with_its_task() -> None:
    with pytest.raises(SpecError, match="no metric is called rmse"):
        RunSpec(data="x", accept={"rmse": "< 2"})
    line = {"metric": "mean_error", "wanted": "< 2", "got": 3.0, "passed": False, "why": ""}
    assert "Mean error 3, should be below 2." in evaluation.verdict({"criteria": [line]})


def test_a_metric_of_ones_own_is_kept_compared_and_on_the_card(error: Metric) -> None:
    metrics = {"rmse": 1.5, "base_rmse": 4.0, "rmse_interval": (1.0, 2.0), "train_loss": 0.1}
    assert evaluations(metrics) == [Evaluation("held-out", "rmse", 1.5, 1.0, 2.0, {"base": 4.0})]
    found = Compared({"a": None, "b": None}, {"a": {"rmse": 1.5}, "b": {"rmse": 4.0}})
    assert side_by_side.rows(found) == [side_by_side.Row("error", {"a": "1.5 EUR", "b": "4 EUR"}, {"a"}, "rmse", True)]
    text = card(CardInput("owner/base", RunSpec(data="x"), Facts(), metrics, "print(1)"))
    assert "| error | 4 | 1.5 |" in text


def test_the_same_metric_is_changed_not_doubled(error: Metric) -> None:
    register(dataclasses.replace(error, title="mistake"))
    assert [metric.title for metric in METRICS.values() if metric.name == "rmse"] == ["mistake"]


def test_metrics_stand_below_all_that_measure() -> None:
    source = Path(side_by_side.__file__).parents[1] / "metrics.py"
    assert "peft_nb." not in "".join(line for line in source.read_text().splitlines() if "import" in line)

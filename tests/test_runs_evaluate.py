"""What cannot be measured is refused, what was is kept, and the verdict is written beside the run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peft_nb.data import table
from peft_nb.errors import DataError, SpecError
from peft_nb.evaluation.evaluators import Evaluator
from peft_nb.events import Event, Notice
from peft_nb.runs import evaluate
from peft_nb.runs.context import Context, Inputs
from peft_nb.runs.run import Run, begin
from peft_nb.spec import RunSpec
from peft_nb.store import Evaluation, Store
from tests.conftest import file_size_limit


def test_the_store_keeps_what_was_measured(finished: Run) -> None:
    kept = {(one.suite, one.measure): one for one in finished.store.evaluations(finished.id)}
    metrics = finished.metrics
    assert kept["held-out", "eval_loss"].value == metrics["eval_loss"]
    assert kept["held-out", "eval_loss"].detail == {"base": metrics["base_eval_loss"]}
    assert kept["cost", "adapter_mb"].value == metrics["adapter_mb"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"score": "rougel"}, "score: there is no function 'rougel'; did you mean 'rouge_l'?"),
        ({"score": "qqqq"}, "score: there is no function 'qqqq'; give exact_match, rouge_l, or a function of prompt"),
        ({"score": "seven"}, "score: a int is no function; give exact_match, rouge_l"),
        ({"regression": "no_such"}, "no data named 'no_such'"),
        ({"regression": "kinds"}, "these rows have labels and no answers"),
        (
            {"eval_fraction": 0, "early_stopping_patience": 2},
            "early_stopping_patience: needs an evaluation set; give eval",
        ),
        ({"eval_fraction": 0, "load_best_model_at_end": True}, "load_best_model_at_end: needs an evaluation set"),
    ],
    ids=str,
)
def test_what_cannot_be_judged_is_refused_before_anything_loads(
    spec: Callable[..., RunSpec], rows: list[Any], store: Store, fields: dict[str, Any], told: str
) -> None:
    names = {"seven": 7, "kinds": [{"text": "a", "label": "b"}] * 4}
    with pytest.raises((SpecError, DataError), match=told.replace("?", r"\?")):
        begin(spec(**fields), data=rows, store=store, namespace=names)
    assert store.all() == []


def test_every_field_that_cannot_be_used_has_its_line() -> None:
    kinds = [{"text": name, "label": name} for name in ("a", "b")] * 4
    fields: dict[str, Any] = {"data": "x", "task": "classification", "eval_fraction": 0, "early_stopping_patience": 2}
    spec = RunSpec(**fields, score="exact_match", regression="mine")
    with pytest.raises(SpecError) as refused:
        evaluate.refuse(spec, table.read(spec, kinds), Inputs())
    told = str(refused.value)
    for name in ("score: a classifier", "regression: a classifier", "early_stopping_patience: needs an evaluation set"):
        assert name in told
    spec = RunSpec(**fields, eval_data="x")
    evaluate.refuse(spec, table.read(spec, kinds, kinds), Inputs())


def test_what_was_measured_is_listed_by_suite_with_interval_and_base() -> None:
    metrics = {"eval_loss": 2.0, "base_eval_loss": 3.0, "forgetting": 0.1, "forgetting_interval": [0.0, 0.2]}
    more = {"train_loss": 1.0, "perplexity": None, "verdict": "passed", "adapter_mb": 4.5}
    assert evaluate.evaluations(metrics | more) == [
        Evaluation("held-out", "eval_loss", 2.0, None, None, {"base": 3.0}),
        Evaluation("regression", "forgetting", 0.1, 0.0, 0.2, {}),
        Evaluation("cost", "adapter_mb", 4.5, None, None, {}),
    ]
    assert evaluate.evaluations({}) == []


@pytest.fixture
def concluded(finished: Run, tmp_path: Path) -> Callable[..., tuple[Context, Evaluator, list[Event]]]:
    """A run that is over but for its verdict, in a folder of its own."""

    def concluded(**accept: str) -> tuple[Context, Evaluator, list[Event]]:
        heard: list[Event] = []
        shutil.copytree(finished.adapter_dir, tmp_path / "adapter")
        spec, measured = RunSpec(**finished.spec.changed() | {"accept": accept}), {"eval_loss": 2.0}
        context = Context(spec, Inputs(), tmp_path, finished.facts, measured, heard.append)
        found = Evaluator(finished.model, finished.tokenizer, None, spec, [], context.metrics)
        found.evaluate("the model is spread over several processes")
        found.details["answers"] = {"score": "rouge_l", "rows": []}
        return context, found, heard

    return concluded


def test_the_verdict_is_written_beside_the_run_and_into_its_card(concluded: Any) -> None:
    context, found, heard = concluded(eval_loss="< 3", forgetting="< 1")
    told = evaluate.conclude(context, found)
    why = "the model is spread over several processes"
    assert context.metrics["verdict"] == f"failed: forgetting was not measured ({why}), wanted < 1"
    assert [line["passed"] for line in context.metrics["criteria"]] == [True, False]
    assert told["missing"]["forgetting"] == why
    assert told["missing"]["perplexity"] == "there is no evaluation set"
    assert "eval_loss" not in told["missing"]
    assert told["answers"] == {"score": "rouge_l", "rows": []}
    assert json.loads((context.folder / evaluate.EVALUATION).read_text()) == json.loads(json.dumps(told))
    assert "## Verdict\n\nfailed: forgetting" in (context.folder / "adapter" / "README.md").read_text()
    assert heard == []


def test_why_a_loss_of_pairs_has_no_perplexity(concluded: Any) -> None:
    context, found, _ = concluded()
    context = replace(context, spec=RunSpec(data="x", task="dpo"))
    assert evaluate.conclude(context, found)["missing"]["perplexity"] == "the loss is per pair, not per token"


def test_without_demands_there_is_no_verdict_and_a_full_disk_costs_none_of_the_numbers(concluded: Any) -> None:
    context, found, heard = concluded()
    with file_size_limit(10):
        told = evaluate.conclude(context, found)
    assert told["metrics"] == {"eval_loss": 2.0}
    (notice,) = heard
    assert isinstance(notice, Notice)
    assert notice.text.startswith("the judgement is kept in memory only: cannot write ")
    assert not (context.folder / evaluate.EVALUATION).exists()


def test_the_size_of_what_is_saved_is_measured(finished: Run, tmp_path: Path) -> None:
    context = Context(finished.spec, Inputs(), tmp_path, finished.facts, {})
    evaluate.save(context, finished.model, finished.tokenizer, [])
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    assert weights.read_bytes() == (finished.adapter_dir / "adapter_model.safetensors").read_bytes()
    assert context.metrics == {"adapter_mb": weights.stat().st_size / 1e6}


@pytest.mark.parametrize(
    ("losses", "train", "evals", "told"),
    [
        ([2.0, 1.5], 1.5, (2.0, 1.8), ""),
        ([2.0, 2.9], 2.9, (2.0, 2.4), ""),  # single steps are noisy
        ([2.0, 6.0], 6.0, (None, None), r"the train loss ends at 6, far above the 2 .*: the learning rate \(0.1\)"),
        ([2.0, 6.0], 6.0, (2.0, 6.5), r"the eval loss ends at 6.5, far above the 2 .*: the learning rate \(0.1\)"),
        ([2.0, 0.1], 0.1, (2.0, 4.5), r"the eval loss ends at 4.5, .*, while the train loss fell: .* learned by heart"),
        ([], None, (None, None), ""),
    ],
)
def test_a_loss_that_ends_far_above_its_beginning_is_warned_of_with_its_cause(
    losses: list[float], train: Any, evals: tuple[Any, Any], told: str
) -> None:
    metrics = {"train_loss": train, "base_eval_loss": evals[0], "eval_loss": evals[1]}
    found = evaluate.risen(RunSpec(data="x", learning_rate=0.1), losses, metrics)
    assert re.match(told, found) if told else found == ""

"""Runs on a tiny base are judged for real: what is measured, what it costs to be wrong, what is written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

import peft_nb
from peft_nb.errors import SpecError
from peft_nb.evaluation.evaluators import ASKED_FOR, PARTS, Asked, Evaluator
from peft_nb.events import Event, Notice, Preparing
from peft_nb.runs.context import Inputs
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from peft_nb.tasks import TASKS
from tests.conftest import few, stop_at

pytestmark = pytest.mark.exhaustive

Start = Callable[..., Run]


def notices(run: Run) -> list[str]:
    return [event.text for event in run.events() if isinstance(event, Notice)]


@pytest.fixture(scope="module")
def full(spec: Callable[..., RunSpec], rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of which everything was measured."""
    store = Store(tmp_path_factory.mktemp("full"))
    accept = {"eval_loss": "< 99", "forgetting": "< -9", "score": ">= 0", "micro_f1": "> 0.5"}
    return begin(spec(judge="full", accept=accept, eval_fraction=0.4), data=rows, store=store).wait()


@pytest.fixture(scope="module")
def untrained(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A run that learned nothing."""
    described = spec(judge="quick", max_steps=2, learning_rate=1e-12, accept={"forgetting": "<= 1e-6"})
    return begin(described, data=rows, store=Store(tmp_path_factory.mktemp("untrained"))).wait()


def test_everything_is_measured_and_on_disk(full: Run) -> None:
    metrics = full.metrics
    of_others = ("accuracy", "macro_f1", "word_error_rate", "character_error_rate")
    for part in PARTS.keys() - {"documents", *ASKED_FOR}:
        assert all(metrics.get(name) is not None for name in PARTS[part] if name not in of_others)
    assert 0 < metrics["token_accuracy"] < 1
    assert metrics["perplexity"] == pytest.approx(math.e ** metrics["eval_loss"])
    assert metrics["forgetting"] == pytest.approx(metrics["regression_loss"] - metrics["base_regression_loss"])
    low, high = metrics["forgetting_interval"]
    assert low < metrics["forgetting"] < high
    assert metrics["latency_ms"] > 0 < metrics["base_latency_ms"]
    assert metrics["wall_seconds"] > metrics["judge_seconds"] > 0 < metrics["cpu_seconds"]
    assert json.loads((full.folder / "judgement.json").read_text()) == json.loads(json.dumps(full.judgement))
    assert "## Verdict\n\nfailed: " in (full.adapter_dir / "README.md").read_text()


def test_the_worst_hit_come_first_and_topics_add_up(full: Run) -> None:
    told = full.judgement["texts"]
    assert told["count"] == 130
    rises = [row["rise"] for row in told["worst"]]
    assert rises == sorted(rises, reverse=True)
    assert len(rises) == 5
    assert full.metrics["worst_hit"] == [[row["id"], row["rise"]] for row in told["worst"]]
    assert {"code", "german", "story"} <= told["topics"].keys()
    questions = full.judgement["questions"]["topics"]
    assert sum(topic["questions"] for topic in questions.values()) == 64
    after = sum(topic["after"] for topic in questions.values())
    assert full.metrics["regression_score"] == pytest.approx(after / 64)


def test_held_out_answers_are_those_of_the_model_and_of_its_base(full: Run) -> None:
    rows = full.judgement["answers"]["rows"]
    assert len(rows) == full.metrics["eval_examples"]
    assert full.metrics["score"] == pytest.approx(full.metrics["rouge_l"])
    assert full.metrics["score"] == pytest.approx(sum(row["score"] for row in rows) / len(rows))
    for key in ("answer", "base_answer"):
        counts = [len(one[key].split()) for one in rows]
        assert full.metrics[f"{key}_words"] == pytest.approx(sum(counts) / len(counts))
    row = rows[-1]
    longest = max(len(full.tokenizer(one["reference"])["input_ids"]) for one in rows)
    options: dict[str, Any] = {"max_new_tokens": longest + longest // 4 + 8}
    assert full.generate(row["prompt"], **options) == row["answer"]
    assert full.generate(row["prompt"], adapter=False, **options) == row["base_answer"]


def test_the_verdict_names_what_was_not_reached_or_not_measured(full: Run) -> None:
    told = full.metrics["verdict"]
    assert told.startswith(
        f"failed: forgetting {full.metrics['forgetting']:.4g}, wanted < -9; micro_f1 was not measured"
    )
    assert [line["passed"] for line in full.metrics["criteria"]] == [True, False, True, False]


def test_a_run_from_the_store_still_knows_its_judgement(full: Run) -> None:
    found = load(full.id, store=full.store)
    assert found.judgement == json.loads(json.dumps(full.judgement))


def test_quick_is_the_default_and_what_is_accepted_is_measured_beside_it() -> None:
    assert Evaluator.parts(RunSpec(data="x")) == ["tokens", "forgetting", "latency"]
    assert Evaluator.parts(RunSpec(data="x", judge="off")) == []
    assert Evaluator.parts(RunSpec(data="x", judge="off", accept={"rouge_l": "> 0"})) == ["answers"]
    full = Evaluator.parts(RunSpec(data="x", judge="full"))
    assert full == [name for name in PARTS if name not in ASKED_FOR]
    assert Evaluator.parts(RunSpec(data="x", judge="off", accept={"memorized": "< 0.1"})) == ["leaks"]
    assert Evaluator.parts(RunSpec(data="x", judge="off", benchmarks=["arc_easy"])) == ["benchmarks"]
    spec = RunSpec(data="x", task="classification")
    assert TASKS["classification"].evaluator().parts(spec) == ["latency", "answers"]


def test_an_adapter_that_learned_nothing_has_forgotten_nothing(untrained: Run) -> None:
    assert untrained.metrics["forgetting"] == pytest.approx(0, abs=1e-6)
    assert untrained.metrics["verdict"].startswith("passed: forgetting ")
    assert untrained.metrics.get("score") is None
    assert untrained.judgement["missing"]["score"] == "judge is quick"


def test_the_losses_are_those_of_the_model_itself(full: Run) -> None:
    import torch

    def loss(text: str) -> float:
        ids = full.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            return full.model(input_ids=ids, labels=ids).loss.item()

    assert full.judgement["texts"]["worst"]
    for row in full.judgement["texts"]["worst"]:
        assert row["loss"] == pytest.approx(loss(row["text"]), rel=1e-4)
        with full.model.disable_adapter():
            assert row["base_loss"] == pytest.approx(loss(row["text"]), rel=1e-4)
        assert row["rise"] == pytest.approx(row["loss"] - row["base_loss"])


def test_without_held_out_rows_it_is_said_why_there_is_no_number(start: Start) -> None:
    run = start(judge="quick", max_steps=1, eval_fraction=0).wait()
    assert run.judgement["missing"]["token_accuracy"] == "there is no evaluation set"
    assert run.judgement["missing"]["eval_loss"] == "there is no evaluation set"


def test_own_rows_join_the_regression_texts(spec: Callable[..., RunSpec], rows: list[Any], store: Store) -> None:
    own = [{"question": "Who are you?", "answer": f"I am number {n}."} for n in range(3)]
    described = spec(judge="quick", regression="mine", max_steps=4)
    run = begin(described, data=rows, store=store, namespace={"mine": own}, listeners=[stop_at(2)]).wait()
    assert run.status == "stopped"
    assert run.judgement == {}
    assert "verdict" not in run.metrics
    run = load(run.id, store=store)
    run.inputs = Inputs(data=rows)
    run.resume()
    told = run.judgement["texts"]
    assert told["count"] == 47  # every third of the built-in ones
    assert "own" in told["topics"]


def test_a_function_of_the_user_scores_the_answers(spec: Callable[..., RunSpec], rows: list[Any], store: Store) -> None:
    asked: list[tuple[str, str, str]] = []

    def marks(prompt: str, answer: str, reference: str) -> float:
        asked.append((prompt, answer, reference))
        return 0.25

    wanted = spec(judge="off", score="marks", accept={"score": "> 0.2"}, eval_fraction=0.2)
    run = begin(wanted, data=rows, store=store, namespace={"marks": marks}).wait()
    assert run.metrics["score"] == 0.25
    assert run.metrics["score_interval"] == [0.25, 0.25]
    assert run.metrics["verdict"] == "passed: score 0.25, wanted > 0.2"
    answered = {row["question"]: row["answer"] for row in rows}
    assert len(asked) == 2 * run.metrics["eval_examples"]
    assert all(answered[prompt] == reference for prompt, _, reference in asked)


def test_a_function_can_be_passed_from_python(base: Path, rows: list[Any], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    fields: dict[str, Any] = {"model": str(base), "max_steps": 1, "judge": "off", "accept": {"score": "< 0"}}
    run = peft_nb.train(data=rows, score=lambda prompt, answer, reference: -1, **fields)
    assert run.metrics["verdict"] == "passed: score -1, wanted < 0"
    assert run.spec.score == "(in memory)"


def test_a_function_that_fails_costs_its_score_and_no_run(
    spec: Callable[..., RunSpec], rows: list[Any], store: Store
) -> None:
    wanted = spec(accept={"score": "> 0"}, max_steps=1)
    run = begin(wanted, data=rows, score=lambda prompt, answer, reference: 1 / 0, store=store).wait()
    told = "the function for score failed on an answer: ZeroDivisionError: division by zero"
    assert run.status == "finished"
    assert run.metrics["verdict"] == f"failed: score was not measured ({told}), wanted > 0"
    assert f"answers could not be measured: {told}" in notices(run)


def test_the_user_can_end_the_judging(start: Start) -> None:
    def stop(event: Event) -> None:
        if event == Preparing("evaluating: loss on general text"):
            running.stop()

    running = start(stop, judge="full", accept={"forgetting": "< 1", "token_accuracy": ">= 0"})
    assert running.wait().status == "finished"
    assert running.metrics["verdict"] == "failed: forgetting was not measured (the evaluation was stopped), wanted < 1"


def test_answers_that_are_few_words_are_classes(spec: Callable[..., RunSpec], store: Store) -> None:
    data = [{"question": f"Is {n} even?", "answer": "no" if n % 2 else "yes"} for n in range(30)]
    run = begin(spec(judge="full", max_steps=30, eval_fraction=0.5), data=data, store=store).wait()
    assert run.metrics["accuracy"] == run.metrics["exact_match"]
    assert 0 < run.metrics["macro_f1"] <= 1


def test_of_rows_with_choices_the_likeliest_is_the_answer(spec: Callable[..., RunSpec], store: Store) -> None:
    cities = ["Rome", "Oslo", "Paris"]
    data = [{"question": f"Where is {n}?", "choices": cities, "answer": cities[n % 3]} for n in range(24)]
    run = begin(spec(judge="full", max_steps=2, eval_fraction=0.25, system="Be brief."), data=data, store=store).wait()
    found = run.judgement["choices"]
    assert run.metrics["accuracy"] == pytest.approx(fmean(row["chosen"] == row["reference"] for row in found))
    assert len(found) == 6
    for row in found:
        assert row["options"] == cities
        assert row["chosen"] == cities[row["log_probs"].index(max(row["log_probs"]))]
        assert all(total < mean < 0 for total, mean in zip(row["log_probs"], row["mean_log_probs"], strict=True))


def test_a_conversation_is_asked_as_it_stands_and_scored_by_what_was_said_last() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert Asked(turns, "d").prompt == "c"


def test_plain_texts_have_no_answers_to_score(spec: Callable[..., RunSpec], rows: list[Any], store: Store) -> None:
    texts = [{"text": row["answer"]} for row in rows]
    run = begin(spec(judge="full", max_steps=2), data=texts, store=store).wait()
    assert run.judgement["missing"]["score"] == "no row of the evaluation set has an answer"
    assert run.metrics["regression_score"] is not None


def test_a_classifier_is_judged_by_its_accuracy(encoder: Path, labelled: list[dict[str, str]], store: Store) -> None:
    wanted = RunSpec(
        model=str(encoder), data="(in memory)", task="classification", max_steps=30, learning_rate=1e-2,
        accept={"score": "> 0", "forgetting": "< 1"},
    )  # fmt: skip
    run = begin(wanted, data=labelled, store=store).wait()
    assert run.metrics["score"] == pytest.approx(run.metrics["accuracy"])
    assert run.metrics["score_interval"][0] <= run.metrics["score"] <= run.metrics["score_interval"][1]
    assert run.metrics["latency_ms"] > 0
    assert run.metrics["verdict"] == "failed: forgetting was not measured (a classifier writes no texts), wanted < 1"
    with pytest.raises(SpecError, match="score: a classifier is judged by its accuracy; leave it out"):
        begin(RunSpec(**wanted.changed() | {"score": "rouge_l"}), data=labelled, store=store)


def test_a_second_run_on_a_base_knows_what_the_base_can_do(start: Start) -> None:
    first = start(judge="quick", max_steps=2).wait()
    second = start(judge="quick", max_steps=3).wait()
    assert second.metrics["base_regression_loss"] == first.metrics["base_regression_loss"]
    assert second.metrics["forgetting"] != first.metrics["forgetting"]


@pytest.mark.parametrize("method", few(["prompt", "prefix", "full", "ia3", "dora", "bottleneck"], "prefix", "full"))
def test_any_method_is_judged_against_the_bare_base(start: Start, untrained: Run, method: str) -> None:
    accept = untrained.spec.accept  # so that as many texts are read
    run = start(judge="quick", method=method, max_steps=2, learning_rate=None, accept=accept).wait()
    assert run.metrics["base_regression_loss"] == pytest.approx(untrained.metrics["base_regression_loss"], rel=1e-5)
    assert run.metrics["forgetting"] != 0


@pytest.mark.exhaustive
def test_the_default_model_forgets_nothing_untrained_and_much_when_trained_on_nonsense(store: Store) -> None:
    nonsense = [{"question": f"zq {n}", "answer": "brk vlm " * (1 + n % 5)} for n in range(40)]
    same: dict[str, Any] = {"data": "(in memory)", "judge": "quick", "eval_fraction": 0}
    untrained = begin(RunSpec(**same, max_steps=1, learning_rate=1e-12), data=nonsense, store=store).wait()
    assert untrained.metrics["forgetting"] == pytest.approx(0, abs=1e-5)
    trained = begin(RunSpec(**same, max_steps=10, learning_rate=1e-2), data=nonsense, store=store).wait()
    assert trained.metrics["forgetting_interval"][0] > 0.1

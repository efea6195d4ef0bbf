"""Whole runs that learn which of two answers is preferred: proposed, compared, judged, resumed, begun from another."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from peft_nb.errors import DataError, PeftNbError, SpecError
from peft_nb.events import Notice, Scored, StepLogged
from peft_nb.runs import reference
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from peft_nb.tasks import TASKS
from peft_nb.tasks.preference import STILL_STEPS
from tests.conftest import few, stop_at
from tests.every_method import NEEDED, RATES

LN2 = 0.693147
Prefer = Callable[..., Run]


@pytest.fixture(scope="module")
def pairs(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Each question with its answer and, as the worse one, that of the next row."""
    return [
        {"prompt": row["question"], "chosen": row["answer"], "rejected": other["answer"]}
        for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)
    ]


@pytest.fixture(scope="module")
def prefer(spec: Callable[..., RunSpec], pairs: list[dict[str, str]], runs: Store) -> Prefer:
    """Train on the pairs, which are evaluated on too."""

    def prefer(*listeners: Any, data: Any = None, **fields: Any) -> Run:
        usual = {"task": "dpo", "eval_data": "pairs", "max_steps": 6, "eval_steps": 3, "learning_rate": 3e-3}
        wanted = {name: value for name, value in {**usual, **fields}.items() if value != "unsaid"}
        given = pairs if data is None else data
        return begin(spec(**wanted), data=given, namespace={"pairs": pairs}, store=runs, listeners=listeners).wait()

    return prefer


@pytest.fixture(scope="module")
def run(prefer: Prefer) -> Run:
    return prefer(name="mild")


def losses(run: Run) -> list[float]:
    return run.history["loss"].dropna().tolist()


def test_a_run_begins_where_its_reference_is_and_learns_the_preference(run: Run) -> None:
    history = run.history
    assert losses(run)[0] == pytest.approx(LN2, abs=1e-4)
    assert history["margin"].dropna().iloc[0] == pytest.approx(0, abs=1e-4)
    assert history["eval_loss"].dropna().iloc[0] == pytest.approx(LN2, abs=1e-4)
    assert history["preference_accuracy"].dropna().iloc[0] == 0.5
    assert run.metrics["base_preference_accuracy"] == 0.5
    assert run.metrics["preference_accuracy"] > 0.6
    assert run.metrics["eval_margin"] == pytest.approx(history["eval_margin"].dropna().iloc[-1])
    assert run.metrics["eval_margin"] > 0.01
    assert run.metrics["margin"] == pytest.approx(history["margin"].dropna().iloc[-5:].mean())  # of the last epoch
    assert run.metrics["eval_loss"] < LN2 - 0.01
    assert "perplexity" not in run.metrics
    assert run.metrics["path"].startswith("padding-free, shared prefixes")
    for event in run.events():
        assert not isinstance(event, Scored) or all(abs(value) < 1e4 for value in event.metrics.values())


def test_pairs_choose_the_task_and_the_run_says_so(prefer: Prefer, run: Run) -> None:
    heard: list[Any] = []
    proposed = prefer(heard.append, task="unsaid", max_steps=1, eval_steps=None)
    assert proposed.spec.task == "dpo"
    assert proposed.spec.beta == 0.1
    assert proposed.spec.loss_type == ["sigmoid"]
    (told,) = [event.text for event in heard if isinstance(event, Notice) and event.text.startswith("task dpo")]
    assert "chosen" in told
    assert RunSpec.from_yaml(proposed.spec.to_yaml()).task == "dpo"
    with pytest.raises(DataError, match="task: dpo"):
        prefer(task="generation")


def test_a_method_learns_more_slowly_than_by_answers_alone(prefer: Prefer) -> None:
    found = prefer(learning_rate=None, max_steps=1, eval_steps=None)
    assert found.spec.learning_rate == pytest.approx(5e-5)


LOSSES: dict[str, dict[str, Any]] = {
    "ipo": {"loss_type": "ipo", "beta": 0.3},
    "hinge": {"loss_type": "hinge"},
    "robust": {"loss_type": "robust", "label_smoothing": 0.1},
    "apo_zero": {"loss_type": "apo_zero"},
    "two": {"loss_type": "sigmoid,sft", "loss_weights": "1,0.2"},
    "simpo": {"task": "simpo"},
    "orpo": {"task": "orpo"},
}


@pytest.mark.parametrize("name", few(LOSSES, "orpo"))
def test_every_loss_is_learned(prefer: Prefer, name: str) -> None:
    found = prefer(eval_steps=6, **LOSSES[name])
    compares = name not in ("simpo", "orpo")
    assert found.metrics["eval_loss"] < found.metrics["base_eval_loss"]
    assert found.metrics["eval_margin"] > 0 or not compares
    assert (found.folder / "reference.json").exists() == compares


@pytest.mark.parametrize("method", few(["bottleneck", "prefix", "ia3", "full", "pissa", "bitfit"], "prefix"))
def test_every_method_can_prefer(prefer: Prefer, method: str) -> None:
    rate = 1e-3 if method == "full" else RATES.get(method, 1e-2)
    found = prefer(method=method, eval_steps=6, learning_rate=rate, **NEEDED.get(method, {}))
    assert losses(found)[0] == pytest.approx(LN2, abs=0.1 if method == "prefix" else 1e-3)
    assert found.metrics["preference_accuracy"] > 0.5
    assert found.metrics["eval_loss"] < LN2


def test_stopped_and_resumed_is_as_if_never_stopped(prefer: Prefer, run: Run, runs: Store) -> None:
    stopped = prefer(stop_at(2))
    assert stopped.status == "stopped"
    again = load(stopped.id, store=runs).resume()
    assert losses(again) == pytest.approx(losses(run), rel=1e-5)
    assert again.metrics["preference_accuracy"] == run.metrics["preference_accuracy"]
    assert again.metrics["eval_margin"] == pytest.approx(run.metrics["eval_margin"], rel=1e-4)


def test_the_reference_is_the_adapter_that_training_starts_from(prefer: Prefer, run: Run, runs: Store) -> None:
    heard: list[Any] = []
    further = prefer(heard.append, init_adapter="mild", max_steps=3)
    assert losses(further)[0] == pytest.approx(LN2, abs=1e-4)
    assert further.history["eval_loss"].dropna().iloc[0] == pytest.approx(LN2, abs=1e-4)
    base, adapter = (json.loads((one.folder / "reference.json").read_text()) for one in (run, further))
    assert base != adapter
    assert any("starts from the adapter of mild" in event.text for event in heard if isinstance(event, Notice))
    assert [one.record.id for one in runs.lineage(further.id).parents] == [run.id]


def test_supervised_training_comes_first(
    prefer: Prefer, spec: Callable[..., RunSpec], rows: list[dict[str, str]], runs: Store
) -> None:
    taught = begin(spec(max_steps=2, eval_steps=None, name="taught"), data=rows, store=runs).wait()
    found = prefer(init_adapter="taught", max_steps=2, eval_steps=None)
    assert losses(found)[0] == pytest.approx(LN2, abs=1e-4)
    assert [one.record.id for one in runs.lineage(found.id).parents] == [taught.id]


def test_micro_batches_change_nothing(prefer: Prefer, run: Run) -> None:
    small = prefer(token_budget=64)
    padded = prefer(fast=False)
    assert losses(small) == pytest.approx(losses(run), abs=1e-4)
    assert losses(padded) == pytest.approx(losses(run), abs=1e-4)
    assert padded.metrics["path"].startswith("padded")


def test_demands_are_held_against_the_accuracy(prefer: Prefer, run: Run) -> None:
    found = prefer(judge="quick", accept={"preference_accuracy": ">= 0.6", "eval_margin": "> 100"}, eval_steps=6)
    assert "preference accuracy" in found.metrics["verdict"] or "failed" in found.metrics["verdict"]
    low, high = found.metrics["preference_accuracy_interval"]
    assert low <= found.metrics["preference_accuracy"] <= high
    assert found.metrics["forgetting"] is not None
    card = (found.adapter_dir / "README.md").read_text(encoding="utf-8")
    assert "nats per pair" in card
    assert "preference accuracy" in card
    assert isinstance(found.generate("Where is it?", max_new_tokens=4), str)


def test_what_does_not_fit_is_refused_in_a_line(prefer: Prefer, rows: list[dict[str, str]]) -> None:
    def line(**fields: Any) -> str:
        with pytest.raises(PeftNbError) as error:
            prefer(**fields)
        assert len(str(error.value).splitlines()) == 1
        return str(error.value)

    assert "no loss" in line(loss_type="sigmoi") or "sigmoi" in line(loss_type="sigmoi")
    assert "loss_weights" in line(loss_weights="1,2")
    assert "too_long" in line(too_long="split")
    assert "loss_on" in line(loss_on="all")
    assert "neftune_noise_alpha" in line(neftune_noise_alpha=5)
    assert "prompt, chosen and rejected" in line(data=rows, eval_data=None)
    assert "simpo has" in line(simpo_gamma=1)
    assert "beta: task generation has no use for it; dpo, simpo, orpo, kto, grpo has" in line(task="generation", beta=1)


def test_how_long_answers_are_is_measured_by_default(prefer: Prefer) -> None:
    metrics = prefer(max_steps=1, eval_steps=None, judge="quick").metrics
    assert {metrics["answer_words"] > 0, metrics["base_answer_words"] > 0} == {True}
    assert metrics.get("score") is None


def test_answers_that_got_longer_are_told() -> None:
    for name in ("dpo", "simpo", "orpo", "kto"):
        spec = RunSpec(data="x", task=name, learning_rate=1e-4)
        told = TASKS[name].warning(spec, [0.7], {"base_answer_words": 10.0, "answer_words": 15.0})
        assert told.startswith("answers got longer (10 → 15 words), which may be all that was learned; %peft data")
        assert not TASKS[name].warning(spec, [0.7], {"base_answer_words": 10.0, "answer_words": 14.9})
        assert not TASKS[name].warning(spec, [0.7], {"answer_words": 15.0})


@pytest.mark.parametrize(("name", "fix"), [("dpo", ", or take loss_type: sigmoid,sft"), ("simpo", ""), ("kto", "")])
def test_a_loss_that_stands_still_is_told(name: str, fix: str) -> None:
    spec = RunSpec(data="x", task=name, learning_rate=1e-9)
    still = TASKS[name].warning(spec, [LN2] * STILL_STEPS, {})
    assert still.startswith("nothing moves: the loss has stayed at 0.693 for 10 steps; raise learning_rate, now 1e-09")
    assert not TASKS[name].warning(spec, [LN2] * (STILL_STEPS - 1), {})
    falling = {"base_eval_chosen_logps": -40.0, "eval_chosen_logps": -60.0}
    told = TASKS[name].warning(spec, [LN2, 0.5], falling)
    assert told.startswith("the chosen answers have become less likely too (log-probability -40.0 → -60.0)")
    assert told.endswith(f"lower learning_rate, now 1e-09{fix}")
    assert not TASKS[name].warning(spec, [LN2, 0.5], {**falling, "eval_chosen_logps": -41.0})


def test_two_runs_share_what_their_base_says(prefer: Prefer, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def unused(*given: Any, **options: Any) -> list[list[float]]:
        raise AssertionError("the reference is computed anew")

    monkeypatch.setattr(reference, "_computed", unused)
    assert prefer().metrics["eval_margin"] == pytest.approx(run.metrics["eval_margin"], rel=1e-5)
    assert [event.step for event in run.events() if isinstance(event, StepLogged)] == [1, 2, 3, 4, 5, 6]


def test_fewer_than_half_of_the_labels_are_wrong() -> None:
    with pytest.raises(SpecError, match="label_smoothing"):
        RunSpec(data="x", task="dpo", label_smoothing=0.6)

"""Benchmarks on a live run give what lm-evaluation-harness's own model gives on the saved adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peft_nb import Run
from peft_nb.errors import DataError, SpecError
from peft_nb.evaluation import harness
from peft_nb.evaluation.harness import Benchmark, problems, read
from peft_nb.runs.run import begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store

CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
WRITTEN = {
    "output_type": "generate_until",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{choices[answer]}}",
    "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 8},
    "metric_list": [{"metric": "exact_match"}],
}


@pytest.fixture(scope="module")
def tasks(rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two tasks of the harness over a file of ours."""
    folder = tmp_path_factory.mktemp("tasks")
    answers = [row["answer"] for row in rows]
    asked = [
        {"question": row["question"], "choices": [answers[place - 2], row["answer"], answers[place - 1]], "answer": 1}
        for place, row in enumerate(rows)
    ]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, asked)))
    files = {"data_files": {"test": f"{folder}/test.jsonl"}}
    data = {"dataset_path": "json", "test_split": "test", "dataset_kwargs": files}
    for name, told in (("desk_choices", CHOICES), ("desk_written", WRITTEN)):
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **data, **told}))  # JSON is YAML
    return {name: folder / f"{name}.yaml" for name in ("desk_choices", "desk_written")}


@pytest.fixture(scope="module")
def asked(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], tasks: dict[str, Path], tmp_path_factory: Any
) -> Run:
    """A run that is asked both when it is over."""
    pytest.importorskip("lm_eval")
    how = {"max_steps": 40, "eval_steps": None, "judge": [f"{tasks['desk_choices']}:20", str(tasks["desk_written"])]}
    described = spec(**how, accept={"benchmark_drop": "< 0.5"})
    return begin(described, data=rows, store=Store(tmp_path_factory.mktemp("asked"))).wait()


@pytest.mark.exhaustive
def test_the_scores_are_those_of_the_harness_itself(asked: Run, tasks: dict[str, Path], base: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks["desk_choices"].parent), include_defaults=False)
    told = {one["name"]: one for one in asked.judgement["benchmarks"]}
    counts = {"desk_choices": 20, "desk_written": None}
    for adapter in (f",peft={asked.adapter_dir}", ""):
        args = f"pretrained={base},dtype=float32{adapter}"
        for name, count in counts.items():
            how: dict[str, Any] = {"tasks": [name], "limit": count, "bootstrap_iters": 0, "task_manager": manager}
            found = simple_evaluate("hf", model_args=args, device="cpu", batch_size=4, **how)
            metric = told[name]["metric"]
            value = next(value for key, value in found["results"][name].items() if key.startswith(f"{metric},"))
            assert told[name]["value" if adapter else "base"] == pytest.approx(value)
    assert told["desk_choices"]["metric"] == "acc"
    assert told["desk_choices"]["rows"] == 20
    assert told["desk_written"]["rows"] == 23
    assert told["desk_choices"]["value"] > told["desk_choices"]["base"]  # it learned these answers
    assert asked.metrics["benchmark_drop"] == 0.0
    assert asked.metrics["verdict"].startswith("passed")
    assert any("benchmark desk_choices: acc" in getattr(event, "text", "") for event in asked.events())


@pytest.mark.exhaustive
def test_likelihoods_are_the_same_token_for_token(asked: Run, base: Path) -> None:
    from types import SimpleNamespace

    from lm_eval.models.huggingface import HFLM

    from peft_nb.training.objectives import PaddingFree

    pairs = [("Where is my", " parcel?"), ("", "Hello there"), ("Where is my", " tent"), ("a " * 30, "b")]
    requests: Any = [SimpleNamespace(args=pair) for pair in pairs]
    live = harness._live(asked.model, asked.tokenizer, PaddingFree(True), lambda: None)
    mine = live.loglikelihood(requests, disable_tqdm=True)
    theirs = HFLM(pretrained=str(base), peft=str(asked.adapter_dir), dtype="float32", device="cpu")
    for (ours, greedy), (wanted, also) in zip(mine, theirs.loglikelihood(requests, disable_tqdm=True), strict=True):
        assert ours == pytest.approx(wanted, abs=2e-3)
        assert greedy is bool(also)


def test_a_difference_inside_the_noise_is_no_drop() -> None:
    noise = Benchmark("a", "acc", 0.5, 0.52, -0.02, -0.05, 0.01, 100)
    assert noise.drop == 0.0
    assert str(noise) == "a: acc 0.520 → 0.500, -0.020 [-0.050, +0.010], which may be noise, 100 questions"
    fall = Benchmark("a", "acc", 0.4, 0.5, -0.1, -0.15, -0.05, 100)
    assert fall.drop == 0.1
    assert "noise" not in str(fall)
    assert Benchmark("a", "acc", 0.6, 0.5, 0.1, 0.05, 0.15, 100).drop == 0.0


def test_an_entry_names_a_task_and_how_many_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read("gsm8k:50") == ("gsm8k", 50)
    assert read("arc_easy") == ("arc_easy", None)
    assert read("./my:tasks/own.yaml") == ("./my:tasks/own.yaml", None)
    with pytest.raises(ValueError, match="no questions are asked"):
        read("gsm8k:0")
    monkeypatch.setattr(harness, "find_spec", lambda name: True)
    assert problems(["gsm8k:0", "./none.yaml:3", "arc_easy"]) == [
        "benchmarks: gsm8k:0: no questions are asked; write 1 or more behind the colon",
        "benchmarks: there is no file ./none.yaml",
    ]
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    assert problems([]) == []
    assert problems(["arc_easy"]) == [
        'benchmarks: lm-evaluation-harness is not installed; pip install "peft_nb[harness]"'
    ]


@pytest.mark.exhaustive
def test_a_task_that_there_is_not_is_one_line(finished: Run) -> None:
    pytest.importorskip("lm_eval")
    from peft_nb.training.objectives import Padded

    with pytest.raises(DataError, match="the harness knows no task 'arc_eazy'; did you mean 'arc_easy'"):
        harness.run(finished.model, finished.tokenizer, Padded(0), ["arc_eazy"])


def test_what_cannot_be_asked_is_refused_before_anything_is_loaded(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], labelled: list[dict[str, str]], store: Store
) -> None:
    with pytest.raises(SpecError, match="benchmarks: there is no file none.yaml"):
        begin(spec(benchmarks=["none.yaml:3"]), data=rows, store=store)
    with pytest.raises(SpecError, match="benchmarks: a run that gives texts labels and writes none is asked none"):
        begin(spec(benchmarks=["arc_easy"], task="classification"), data=labelled, store=store)


def test_a_list_for_judge_names_benchmarks() -> None:
    spec = RunSpec(data="x", judge=["arc_easy", "gsm8k:50"])
    assert (spec.judge, spec.benchmarks) == ("quick", ["arc_easy", "gsm8k:50"])
    assert RunSpec.from_yaml("data: x\njudge: [arc_easy, gsm8k:50]\n") == spec
    assert RunSpec.from_yaml(spec.to_yaml()) == spec
    with pytest.raises(SpecError, match="judge: a list stands for benchmarks, which is given too"):
        RunSpec(data="x", judge=["a"], benchmarks=["b"])

"""What a run will take: closed forms, directions, refusals, and a real run beside its forecast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb.errors import DataError, ForecastError, MethodError, RunError
from peft_nb.methods import REGISTRY, problems
from peft_nb.planning import estimate as estimates
from peft_nb.planning import memory
from peft_nb.planning.estimate import estimate
from peft_nb.planning.forecast import MARGIN
from peft_nb.runs.run import Run
from peft_nb.spec import METHODS, RunSpec
from peft_nb.system import resources
from peft_nb.ui import forecast as forecasts
from tests import tiny
from tests.conftest import few

Spec = Callable[..., RunSpec]
Table = list[dict[str, str]]


@pytest.mark.parametrize(
    "method", few((name for name in METHODS if not REGISTRY[name].required), "lora", "qlora", "prefix", "full")
)
def test_every_method_is_forecast(spec: Spec, rows: Table, method: str) -> None:
    described = spec(method=method)
    if problems(described):
        pytest.skip("needs another base")
    forecast = estimate(described, data=rows)
    assert forecast.seconds
    assert forecast.trainable_parameters
    assert REGISTRY[method].padding_free or forecast.path.startswith("padded")


def test_what_does_not_fit_is_refused_with_settings_that_do(spec: Spec, rows: Table) -> None:
    wide = {"batch_size": 200, "token_budget": 20_000}
    rows = rows * 20
    estimate(spec(**wide), data=rows)  # leaves the process larger
    whole = estimate(spec(**wide), data=rows)
    tight = estimate(spec(**wide), data=rows, room_mb=whole.memory_mb - whole.activations_mb / 2)
    assert tight.tight
    with pytest.raises(RunError, match=r"needs about .* MB of memory and .* MB are available; set \w+: \w+") as refused:
        replace(tight, room_mb=tight.memory_mb / MARGIN - 1).require_memory()
    assert "\n" not in str(refused.value)
    replace(tight, room_mb=tight.memory_mb / MARGIN + 1).require_memory()
    setting, peak = tight.fixes[0]
    assert peak <= tight.room_mb
    changes = dict(part.split(": ") for part in setting.split(", "))
    assert estimate(spec(**wide | changes), data=rows).activations_mb < whole.activations_mb


def test_answers_that_take_too_much_memory_are_to_be_shorter_or_fewer(
    spec: Spec, rows: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "process", lambda device="cpu": 3e8)  # which other tests leave larger or smaller
    answers = {"num_generations": 8, "max_completion_length": 240}
    own = {"token_budget": 2048, "dtype": "float32"}  # which otherwise depend on how fast the machine is just now
    fields = {"task": "grpo", "reward": "length", "batch_size": 1, **answers, **own}
    whole = estimate(spec(**fields), data=rows)
    room_mb = whole.memory_mb - 0.4 * (whole.activations_mb + whole.loss_mb)
    fixes = dict(estimate(spec(**fields), data=rows, room_mb=room_mb).fixes)
    names = [fix.partition(":")[0] for fix in fixes]
    assert names == ["token_budget", "max_completion_length", "num_generations"]
    assert max(fixes.values()) <= room_mb


def test_on_a_gpu_its_memory_is_foreseen_and_no_time(spec: Spec, rows: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    here = estimate(spec(dtype="float32"), data=rows)
    room = {"memory": 500.0, "available": 9_000.0}
    monkeypatch.setattr(resources, "device", lambda name: "cuda")
    for what, mb in room.items():
        monkeypatch.setattr(resources, f"device_{what}_mb", lambda device, mb=mb: mb if device == "cuda" else 0.0)
    monkeypatch.setattr(estimates.memory, "loaded_bytes", lambda: 200e6)
    there = estimate(spec(dtype="float32", device="cuda"), data=rows)
    assert (there.device, there.seconds, there.evaluation_seconds) == ("cuda", None, None)
    assert (there.room_mb, there.process_mb) == (9_500, 300)  # what libraries need of the host is not the GPU's
    assert (there.weights_mb, there.adapter_mb, there.optimizer_mb) == (
        here.weights_mb,
        here.adapter_mb,
        here.optimizer_mb,
    )
    assert there.token_budget > here.token_budget
    said = dict(forecasts.rows(there))
    assert said["training time"] == "time not estimated (not measured on a GPU)"
    assert said["precision and device"] == "float32, cuda"
    assert said["memory"].endswith("of 9.5 GB available")


def test_other_devices_have_no_estimates(spec: Spec, rows: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "device", lambda name: "mps")
    with pytest.raises(ForecastError, match=r"^device: there are no estimates for mps; set device to cpu$"):
        estimate(spec(), data=rows)


def test_a_run_is_refused_before_its_base_is_loaded(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peft_nb.system.resources.memory_available_mb", lambda: -500.0)
    run = start()
    with pytest.raises(RunError, match="of memory and .* are available"):
        run.wait()
    assert "forecast_memory_mb" in run.metrics
    assert "base" not in run.metrics


def test_a_run_is_forecast(finished: Run) -> None:
    metrics = finished.metrics
    assert metrics["forecast_memory_mb"] == pytest.approx(metrics["peak_memory_mb"], rel=0.4)
    # How near is measured in benchmarks/forecast.py; here a fifth of a second of training shares the processor.
    assert metrics["train_seconds"] / 20 < metrics["forecast_seconds"] < 20 * metrics["train_seconds"]


def test_classifiers_are_forecast(spec: Spec, labelled: Table, encoder: Any) -> None:
    described = spec(model=str(encoder), task="classification", max_steps=None, epochs=1, eval_fraction=0.25)
    forecast = estimate(described, data=labelled)
    assert forecast.steps == 72
    assert forecast.path == "padding-free"
    assert forecast.seconds is not None
    assert forecast.seconds > 0


def test_mistakes_are_one_line(spec: Spec, rows: Table) -> None:
    with pytest.raises(DataError, match="1 of 3 rows"):
        estimate(spec(), data=[*rows[:2], {"question": "", "answer": ""}])
    with pytest.raises(MethodError, match="fits no layer"):
        estimate(spec(target_modules=["nothing"]), data=rows)


def saved(family: str, folder: Path, tokenizer: Path) -> str:
    """A tiny random model of a family, with the tokenizer of the tiny base."""
    from transformers import AutoTokenizer

    tiny.base(family, vocab_size=512, pad_token_id=0).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", ["qwen3", "mistral", "gemma2", "gpt2", "gpt-neox", "phi"])
def test_models_of_other_families_are_forecast(
    family: str, spec: Spec, rows: Table, base: Path, tmp_path: Path
) -> None:
    forecast = estimate(spec(model=saved(family, tmp_path / "model", base)), data=rows)
    assert forecast.seconds
    assert forecast.activations_mb > 0


def test_a_method_that_does_not_fit_is_refused_before_the_base_is_loaded(
    start: Callable[..., Run], base: Path, tmp_path: Path
) -> None:
    run = start(model=saved("gpt-neox", tmp_path / "model", base), method="adaption-prompt")
    with pytest.raises(MethodError, match="adaption-prompt does not fit GPTNeoXForCausalLM: .*; lora does"):
        run.wait()
    assert "base" not in run.metrics


def test_the_magic_takes_data_or_a_file(shell: InteractiveShell, spec: Spec, rows: Table, tmp_path: Path) -> None:
    described = spec(data="rows", max_steps=5)
    file = tmp_path / "spec.yaml"
    file.write_text(described.to_yaml())
    shell.user_ns["rows"] = rows
    told = shell.run_cell(f"%peft estimate {file} --r 4").result.forecast
    named = shell.run_cell(f"%peft estimate rows --model {described.model} --r 4 --max-steps 7").result.forecast
    assert (told.steps, named.steps) == (5, 7)
    assert told.trainable_parameters == named.trainable_parameters

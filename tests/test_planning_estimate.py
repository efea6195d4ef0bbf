"""What a run will take: closed forms, directions, refusals, and a real run beside its forecast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb.errors import DataError, MethodError, RunError
from peft_nb.methods import REGISTRY, attach, problems
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from peft_nb.models.share import share
from peft_nb.planning.estimate import estimate
from peft_nb.planning.forecast import MARGIN, Forecast
from peft_nb.runs.run import Run
from peft_nb.spec import METHODS, RunSpec
from peft_nb.ui import forecast as shown
from tests import tiny
from tests.conftest import few

Spec = Callable[..., RunSpec]
Table = list[dict[str, str]]


@pytest.mark.parametrize("fields", [{}, {"r": 4}, {"target_modules": ["q_proj"]}, {"dtype": "bfloat16"}], ids=str)
def test_weights_and_adapter_are_those_of_the_real_model(spec: Spec, rows: Table, fields: dict[str, Any]) -> None:
    described = spec(**fields)
    forecast = estimate(described, data=rows)
    base = load(resolve(described.model), dtype=described.dtype).model
    trained, _ = attach(share(base), described, "").get_nb_trainable_parameters()
    assert forecast.trainable_parameters == trained
    assert forecast.weights_mb == pytest.approx(sum(one.nbytes for one in base.parameters()) / 1e6, rel=0.01)
    assert forecast.adapter_mb == forecast.optimizer_mb == pytest.approx(8 * trained / 1e6)


def test_a_base_in_4_bits_weighs_what_the_loaded_one_does(spec: Spec, rows: Table) -> None:
    described = spec(method="qlora")
    base = load(resolve(described.model), dtype="float32", quantization="4bit").model
    real = sum(one.nbytes for one in base.parameters()) / 1e6
    assert estimate(described, data=rows).weights_mb == pytest.approx(real, rel=0.05)  # scales come on top


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


@pytest.mark.parametrize(
    ("part", "less", "more"),
    [
        ("activations_mb", {"max_length": 24, "loss_on": "all"}, {}),
        ("activations_mb", {"token_budget": 32}, {"token_budget": 2048}),
        ("activations_mb", {"gradient_checkpointing": True}, {}),
        ("adapter_mb", {"r": 4}, {"r": 64}),
        ("loss_mb", {}, {"fast": False}),
        ("weights_mb", {"dtype": "bfloat16"}, {}),
        ("steps", {"max_steps": None, "epochs": 1}, {"max_steps": None, "epochs": 3}),
    ],
)
def test_more_takes_more(spec: Spec, rows: Table, part: str, less: dict[str, Any], more: dict[str, Any]) -> None:
    small, large = (getattr(estimate(spec(**fields), data=rows), part) for fields in (less, more))
    assert small < large


def test_the_peak_is_the_sum_of_its_parts(spec: Spec, rows: Table) -> None:
    forecast = estimate(spec(), data=rows)
    told = ("weights", "adapter", "optimizer", "activations", "loss", "process")
    assert forecast.memory_mb == pytest.approx(sum(getattr(forecast, f"{part}_mb") for part in told))
    assert forecast.fits
    assert not forecast.mends
    forecast.require_memory()


def test_what_does_not_fit_is_refused_with_settings_that_do(spec: Spec, rows: Table) -> None:
    wide = {"batch_size": 200, "token_budget": 20_000}
    rows = rows * 20
    estimate(spec(**wide), data=rows)  # leaves the process larger
    whole = estimate(spec(**wide), data=rows)
    tight = estimate(spec(**wide), data=rows, room_mb=whole.memory_mb - whole.activations_mb / 2)
    assert tight.tight
    with pytest.raises(RunError, match=r"needs about .* MB of memory and can have .*; set \w+: \w+") as refused:
        replace(tight, room_mb=tight.memory_mb / MARGIN - 1).check()
    assert "\n" not in str(refused.value)
    replace(tight, room_mb=tight.memory_mb / MARGIN + 1).check()
    setting, peak = tight.mends[0]
    assert peak <= tight.room_mb
    changes = dict(part.split(": ") for part in setting.split(", "))
    assert estimate(spec(**wide | changes), data=rows).activations_mb < whole.activations_mb


def test_where_nothing_helps_it_says_so(spec: Spec, rows: Table) -> None:
    with pytest.raises(RunError, match="take a smaller model"):
        estimate(spec(), data=rows, room_mb=50).check()


def test_a_run_is_refused_before_its_base_is_loaded(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peft_nb.system.resources.memory_available_mb", lambda: -500.0)
    run = start()
    with pytest.raises(RunError, match="of memory and can have"):
        run.wait()
    assert "forecast_memory_mb" in run.metrics
    assert "base" not in run.metrics


def test_a_run_is_forecast(finished: Run) -> None:
    metrics = finished.metrics
    assert metrics["forecast_memory_mb"] == pytest.approx(metrics["peak_memory_mb"], rel=0.4)
    assert metrics["train_seconds"] / 5 < metrics["forecast_seconds"] < 5 * metrics["train_seconds"]


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


def test_it_is_shown_as_text_and_escaped() -> None:
    forecast = Forecast(1, 2, 3, 4, 5, 600, 500, None, None, 7, 8, 9, 10, "float32", "padded (<b>)", (("r: 4", 490),))
    told = shown.text(forecast)
    assert "615 MB at the peak, of 500 MB" in told
    assert "not forecast" in told
    assert "r: 4 (490 MB)" in told
    assert "&lt;b&gt;" in shown.html(forecast)
    assert "<b>" not in shown.html(forecast)
    assert "38 s" in repr(shown.Shown(replace(forecast, seconds=38.0)))


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

"""What only a GPU can show: the kernels of attention, whole runs and resuming on it, and the memory that it gives.

The one file whose tests are skipped where they cannot run. ``python benchmarks/gpu.py`` runs them too.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from peft_nb.events import Notice
from peft_nb.methods import attach
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from peft_nb.planning.estimate import estimate
from peft_nb.runs.run import begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from peft_nb.tasks import TASKS
from tests.conftest import stop_at

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import gpu

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use"),
]
SHAPES = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Llama whose heads are as wide as the kernels need them."""
    return gpu.build(tmp_path_factory.mktemp("gpu") / "base", SHAPES, "float32")


def spec(base: str, **settings: Any) -> RunSpec:
    """A short run that draws nothing at random."""
    return RunSpec(**{"model": base, "method": "lora", "device": "cuda", "max_steps": 8, "batch_size": 5, **settings})


def test_every_kernel_of_attention_gives_the_padded_loss_and_gradients() -> None:
    found = list(gpu.exactness(SHAPES, "cuda"))
    assert {one.kernel for one in found} == {"varlen", "flex", "each segment alone", gpu.COMPILED}
    assert [one for one in found if one.found != "exact"] == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_lora_run_takes_the_padding_free_path_in_one_kernel(
    base: str, dtype: str, rows: list[dict[str, str]], store: Store
) -> None:
    run = begin(spec(base, dtype=dtype), data=rows, store=store).wait()
    assert run.metrics["path"] == "padding-free, shared prefixes"
    assert run.metrics["train_loss"] < run.history["loss"].iloc[0]


def test_a_qlora_run_learns_in_bfloat16(base: str, rows: list[dict[str, str]], store: Store) -> None:
    pytest.importorskip("bitsandbytes")
    run = begin(spec(base, method="qlora"), data=rows, store=store).wait()
    assert run.metrics["dtype"] == "bfloat16"
    assert run.metrics["train_loss"] < run.history["loss"].iloc[0]
    assert [event.text for event in run.events() if isinstance(event, Notice) and "paged_adamw_8bit" in event.text]


@pytest.mark.parametrize("task", ["generation", "classification"])
def test_a_step_does_not_wait_for_the_gpu(base: str, task: str) -> None:
    labels = (1,) if task == "classification" else ()
    rows = [replace(one, labels=labels) for one in gpu.examples(512)]
    described = spec(base, data="x", task=task, dtype="bfloat16")
    facts = {"classes": ["a", "b"], "multi_label": False}
    loaded = load(resolve(base), device="cuda", dtype="bfloat16")
    bare, new = TASKS[task].build(loaded, facts)
    model, device = attach(bare, described, base, new, peft_type=TASKS[task].peft_type), torch.device("cuda")
    objective = TASKS[task].objective(
        model, rows, loaded.tokenizer.pad_token_id, device, described, facts, supported=True
    )
    assert str(objective).startswith("padding-free")
    with objective.installed(model):
        objective.loss(model, rows, device).backward()  # compiles, and chooses kernels
        torch.cuda.set_sync_debug_mode("error")
        try:
            objective.loss(model, rows, device).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_compiled_run_has_the_losses_of_any_other(base: str, rows: list[dict[str, str]], store: Store) -> None:
    plain, compiling = (
        begin(spec(base, dtype="float32", torch_compile=on), data=rows, store=store).wait() for on in (False, True)
    )
    assert compiling.metrics["path"].endswith(", compiled")
    assert compiling.history["loss"].tolist() == pytest.approx(plain.history["loss"].tolist(), rel=1e-3)


def test_an_estimate_tells_the_memory_of_the_gpu(base: str, rows: list[dict[str, str]]) -> None:
    found = estimate(spec(base, dtype="float32", data="rows"), data=rows)
    assert found.device == "cuda"
    assert found.seconds is None
    assert found.room_mb == pytest.approx(torch.cuda.mem_get_info()[0] / 1e6, rel=0.2)


def test_a_run_that_is_stopped_and_resumed_ends_as_an_undisturbed_one(
    base: str, rows: list[dict[str, str]], store: Store
) -> None:
    whole = begin(spec(base, dtype="float32"), data=rows, store=store).wait()
    run = begin(spec(base, dtype="float32"), data=rows, store=store, listeners=[stop_at(3)]).wait()
    assert run.status == "stopped"
    run.resume()
    assert run.history["loss"].tolist() == pytest.approx(whole.history["loss"].tolist(), rel=1e-4)


def test_micro_batches_follow_the_free_memory_of_the_gpu_and_its_peak_is_told(
    base: str, rows: list[dict[str, str]], store: Store
) -> None:
    run = begin(spec(base), data=rows, store=store).wait()
    free, total = (amount / 1e6 for amount in torch.cuda.mem_get_info())
    assert run.metrics["token_budget"] > 2048
    assert 0 < run.history["memory_mb"].max() <= run.metrics["peak_memory_mb"] < total
    assert run.metrics["host_peak_memory_mb"] > 100
    assert run.metrics["peak_memory_mb"] < total - free + 2000

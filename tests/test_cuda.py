"""What only a GPU can show: the kernels of attention, whole runs and resuming on it, and the memory that it gives.

The one file whose tests are skipped where they cannot run. ``python benchmarks/gpu.py`` runs them too.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from peft_nb.runs.run import begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store
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
    assert {one.kernel for one in found} == {"varlen", "flex", "each segment alone"}
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

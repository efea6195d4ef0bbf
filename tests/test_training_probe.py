"""What a machine is found to do best, on configs whose answer is known."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from peft_nb.training import probe
from tests import tiny


@pytest.mark.parametrize("faster", ["float32", "bfloat16"])
def test_on_a_cpu_the_faster_product_decides(monkeypatch: pytest.MonkeyPatch, faster: str) -> None:
    asked = set()

    def seconds(dtype: torch.dtype, hidden: int, inner: int) -> float:
        asked.add((hidden, inner))
        return 1.0 if dtype == getattr(torch, faster) else 2.0

    monkeypatch.setattr(probe, "_seconds", seconds)
    assert probe.fastest_dtype(LlamaConfig(hidden_size=64, intermediate_size=96), "cpu") == faster
    assert probe.fastest_dtype(GPT2Config(n_embd=32), "cpu") == faster
    assert asked == {(64, 96), (32, 128)}


def test_on_a_cpu_the_product_is_really_timed() -> None:
    small, large = (min(probe._seconds(torch.float32, size, size) for _ in range(3)) for size in (8, 512))
    assert 0 < small < large


def test_metal_computes_in_float32() -> None:
    assert probe.fastest_dtype(LlamaConfig(), "mps") == "float32"


def test_a_third_of_the_free_memory_is_taken_within_bounds() -> None:
    model = tiny.base("llama")
    kept = 2 * (12 * 32 + 5 * 48)  # numbers that two layers keep of a token
    assert probe.token_budget(model, 3 * 500 * kept * 4 / 1e6) == 500
    assert probe.token_budget(model.to(torch.bfloat16), 3 * 500 * kept * 2 / 1e6) == 500
    assert probe.token_budget(model, 0) == probe.MIN_BUDGET
    assert probe.token_budget(model, 1e6) == probe.MAX_BUDGET
    assert probe.token_budget(model, 3 * 9000 * kept * 2 / 1e6, "cuda") == 9000

"""What a token of answers costs, by models of few layers, beside what writing one takes in the whole model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from peft_nb.methods import attach, complete
from peft_nb.models.load import load
from peft_nb.models.meta import load_meta, single_layer
from peft_nb.models.resolve import resolve
from peft_nb.models.share import share
from peft_nb.planning.writing_benchmark import benchmark_writing
from peft_nb.training.rollout import sample


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_a_token_of_the_whole_model_takes_as_long_as_its_parts(spec: Callable[..., Any], method: str) -> None:
    described = complete(spec(method=method))
    base = load_meta(resolve(described.model), dtype="float32")
    few = [attach(share(single_layer(base, layers).model), described, "") for layers in (1, 2)]
    how = {"shared": method == "lora"}
    found = benchmark_writing(few, 2, 8, 40, **how)
    whole = attach(share(load(resolve(described.model), dtype="float32").model), described, "")
    began = time.perf_counter()
    sample(whole, [[5] * 36] * 2, 8, seeds=[0, 1], longest=8, ends=[600], pad=0, **how)
    took = (time.perf_counter() - began) / 8
    assert found.layer_s > 0
    assert 2 * found.layer_s + 512 * found.head_s + found.rest_s < 2.5 * took
    assert took < 4 * (2 * found.layer_s + 512 * found.head_s + found.rest_s)  # with the prompt and other work beside

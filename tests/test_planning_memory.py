from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, LlamaConfig

from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from peft_nb.planning import memory
from peft_nb.planning.memory import Shapes
from peft_nb.planning.workload import Load
from peft_nb.spec import RunSpec
from peft_nb.training.loss import CHUNK_BYTES, log_probs
from peft_nb.training.trainer import UNDO_BYTES

SHAPES = Shapes(layers=2, hidden=64, inner=128, words=512, size=4, cached=128)


def test_sizes_are_those_of_the_configuration() -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512}
    assert Shapes.of(LlamaConfig(**sizes), "float32") == SHAPES
    assert Shapes.of(BertConfig(**sizes), "bfloat16") == Shapes(2, 64, 128, 512, 2, 120)


def test_weights_are_those_that_are_loaded(spec: Callable[..., RunSpec]) -> None:
    source = resolve(spec().model)
    plain = load(source, dtype="float32").model
    assert memory.weights(*memory.sizes(plain), "none", 4) == sum(one.nbytes for one in plain.parameters())
    packed = load(source, dtype="float32", quantization="4bit").model
    real = sum(one.nbytes for one in packed.parameters())
    assert memory.weights(*memory.sizes(plain), "4bit", 4) == pytest.approx(real, rel=0.05)  # scales come on top


def test_a_quantized_base_keeps_its_head_and_its_embeddings() -> None:
    model: Any = AutoModelForCausalLM.from_config(
        LlamaConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32)
    )
    linear = 4 * 8 * 8 + 3 * 8 * 16
    others = 2 * 32 * 8 + 3 * 8
    assert memory.weights(*memory.sizes(model), "none", 2) == 2 * (linear + others)
    assert memory.weights(*memory.sizes(model), "8bit", 2) == linear + 2 * others
    assert memory.weights(*memory.sizes(model), "4bit", 2) == linear * (4 + 8 / 64 + 32 / 64 / 256) / 8 + 2 * others


def test_checkpointing_keeps_the_inputs_of_all_layers_and_the_rest_of_one() -> None:
    tokens, kept = 10, SHAPES.kept(padded=True)
    assert kept == 4 * (12 * 64 + 5 * 128)
    inputs = tokens * 64 * 4
    assert SHAPES.activations(tokens, kept, False) == 4 * inputs + 2 * tokens * kept
    assert SHAPES.activations(tokens, kept, True) == 4 * inputs + 2 * inputs + tokens * kept


def test_the_loss_takes_whole_logits_only_where_it_is_padded() -> None:
    micro = Load(tokens=1000, positions=1000, predicted=600)
    assert SHAPES.loss(micro, whole=True) == 512 * (1000 * 4 + 600 * 8)
    few = Load(tokens=1000, positions=1000, predicted=60)
    assert SHAPES.loss(few, whole=True) == 512 * 2 * 1000 * 4  # the gradient of all, as a slice and whole
    assert SHAPES.loss(micro, whole=False) == 512 * 8 * 600 + 2 * 600 * 64 * 4
    assert replace(SHAPES, size=2).loss(micro, whole=False) == 512 * 8 * 600 + 2 * 600 * 64 * 2
    large = Shapes(2, 64, 128, 2**19, 4)  # of which a chunk has the 16 rows that it always has
    assert large.loss(micro, whole=False) == 16 * 2**19 * 8 + 2 * 600 * 64 * 4
    assert CHUNK_BYTES // (4 * large.words) == 16


@pytest.mark.parametrize("bfloat16", [False, True])
def test_what_the_loss_takes_at_its_peak_is_what_torch_allocates(bfloat16: bool) -> None:
    """Two chunks of logits, hidden states that are few beside them."""
    shapes = replace(SHAPES, words=2**16, size=2 if bfloat16 else 4)
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    hidden, weight = torch.zeros(200, 64, dtype=dtype, requires_grad=True), torch.zeros(2**16, 64, dtype=dtype)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        log_probs([(hidden, weight)], torch.zeros(200, dtype=torch.long)).sum().backward()
    sizes = [one.nbytes() for one in seen.profiler.kineto_results.events() if one.name() == "[memory]"]
    micro = Load(tokens=200, positions=200, predicted=200)
    assert shapes.loss(micro, whole=False) == pytest.approx(max(accumulate(sizes)), rel=0.03)


def test_what_is_written_keeps_keys_and_values_of_all_tokens_and_the_scores_of_one() -> None:
    assert SHAPES.writing(answers=3, tokens=100) == 3 * (100 * 2 * 128 * 4 + 4 * 4 * 512)
    few = LlamaConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=2, head_dim=16)
    assert Shapes.of(few, "bfloat16").cached == 2 * 2 * 16


def test_what_is_trained_has_gradients_and_unless_it_is_large_a_copy() -> None:
    assert memory.trained(1000) == 3 * 4 * 1000
    assert memory.trained(UNDO_BYTES / 4 + 1) == pytest.approx(2 * UNDO_BYTES, abs=10)


def test_libraries_grow_by_the_kernels_they_compile_and_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_grown", 0.0)
    at_once = memory.GROWTH
    assert memory.growth(False, 0) == at_once
    assert memory.growth(True, 0) == at_once + memory.TOKENWISE
    assert memory.growth(False, 100) == at_once + 100 * memory.KERNEL
    assert memory.growth(False, 1e9) == at_once + 1024 * memory.KERNEL
    monkeypatch.setattr(memory, "process", lambda: 300e6)
    memory.settle(before=330e6)  # less than before is no growth
    assert memory.growth(False, 0) == at_once
    memory.settle(before=320e6 - at_once)
    assert memory.growth(False, 0) == pytest.approx(20e6)
    memory.settle(before=200e6)
    assert memory.growth(False, 0) == 0


def test_the_process_is_told_without_the_bases_it_holds(spec: Callable[..., RunSpec]) -> None:
    base = load(resolve(spec().model), dtype="float32")
    before = memory.process()
    base.model.filler = torch.nn.Parameter(torch.ones(20_000_000), requires_grad=False)
    try:
        assert memory.process() == pytest.approx(before, abs=20e6)
    finally:
        del base.model.filler

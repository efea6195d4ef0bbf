"""A base without its weights has the shapes of the real one, and one layer of it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from peft_nb.errors import ModelError
from peft_nb.models.load import load
from peft_nb.models.meta import VOCABULARY, load_meta, shapes_alone, single_layer
from peft_nb.models.resolve import resolve


def test_shapes_and_names_are_those_of_the_loaded_base(base: Path) -> None:
    source = resolve(base)
    real, bare = load(source), load_meta(source)
    shapes = {name: (one.shape, one.dtype) for name, one in real.model.named_parameters()}
    assert {name: (one.shape, one.dtype) for name, one in bare.model.named_parameters()} == shapes
    assert {one.device.type for one in bare.model.parameters()} == {"meta"}
    assert not any(one.requires_grad for one in bare.model.parameters())
    assert bare.tokenizer("Hello")["input_ids"] == real.tokenizer("Hello")["input_ids"]
    assert load_meta(source, dtype=lambda config: "bfloat16").model.dtype == torch.bfloat16


def test_a_live_pair_is_read_and_left_alone(base: Path) -> None:
    real = load(resolve(base))
    bare = load_meta(resolve((real.model, real.tokenizer)))
    assert bare.model.device.type == "meta"
    assert real.model.device.type == "cpu"
    assert bare.model.config is not real.model.config


def test_an_encoder_writes_no_text(encoder: Path) -> None:
    with pytest.raises(ModelError, match="is a bert model, which writes no text; choose a causal one"):
        load_meta(resolve(encoder))
    assert load_meta(resolve(encoder), kind=None).model.get_output_embeddings() is None


def test_a_single_layer_is_a_real_one(base: Path) -> None:
    bare = load_meta(resolve(base))
    one = single_layer(bare)
    assert (one.model.config.num_hidden_layers, bare.model.config.num_hidden_layers) == (1, 2)
    assert one.model.config.vocab_size == min(VOCABULARY, bare.model.config.vocab_size)
    assert one.device == one.model.device.type == "cpu"
    layer, whole = one.model.model.layers[0].state_dict(), bare.model.model.layers[0].state_dict()
    assert {name: tensor.shape for name, tensor in layer.items()} == {n: tensor.shape for n, tensor in whole.items()}
    assert one.model(input_ids=torch.arange(8)[None]).logits.isfinite().all()


def test_in_the_block_tensors_have_no_memory_and_numbers_are_zero() -> None:
    with shapes_alone():
        made = torch.randn(3, 4)
        assert made.device.type == "meta"
        assert made.sum().item() == 0
        assert made.to(torch.float16).cpu().device.type == "meta"
    assert torch.zeros(1).device.type == "cpu"

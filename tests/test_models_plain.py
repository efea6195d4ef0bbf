"""Bases without adapters and without quantization."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from transformers import AutoModelForCausalLM

from peft_nb.models import quantize
from peft_nb.models.plain import MARKS, bare, copied, dequantize
from peft_nb.models.share import keep_unpacked, share
from tests import tiny

IDS = torch.arange(3, 19).reshape(2, 8)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits


def test_the_bare_base_has_no_trace_of_an_adapter_and_the_same_memory() -> None:
    base = tiny.base("llama")
    adapted = tiny.with_lora(share(base))
    trained = logits(adapted)
    plain = bare(adapted)
    assert type(plain) is type(base)
    assert plain.state_dict().keys() == base.state_dict().keys()
    assert not hasattr(plain, "peft_config")
    assert torch.equal(logits(plain), logits(base))
    assert {one.data_ptr() for one in plain.parameters()} == {one.data_ptr() for one in base.parameters()}
    assert torch.equal(logits(adapted), trained)


def test_a_copy_has_memory_of_its_own() -> None:
    base = tiny.base("llama")
    before = logits(base)
    twin = copied(share(base))
    for one in twin.parameters():
        one.data.zero_()
    assert torch.equal(logits(base), before)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_quantized_layers_become_plain_ones_with_their_numbers(tmp_path: Path, quantization: str) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    original = tiny.base("llama", **sizes)
    original.save_pretrained(tmp_path)
    config = quantize.config(quantization, torch.float32)
    options = {"quantization_config": config, "device_map": {"": "cpu"}, "dtype": torch.float32}
    model = keep_unpacked(AutoModelForCausalLM.from_pretrained(tmp_path, **options)).eval()
    assert quantize.stored(model) == quantization
    packed = model.model.layers[0].mlp.up_proj.weight
    plain = dequantize(share(model))
    assert quantize.stored(plain) == "none"
    assert not any(mark in vars(plain) for mark in MARKS)
    assert all(type(one) is torch.nn.Linear for one in plain.modules() if isinstance(one, torch.nn.Linear))
    weight, true = (one.model.layers[0].mlp.up_proj.weight for one in (plain, original))
    if quantization == "4bit":
        assert torch.equal(weight, dequantize_4bit(packed.data, packed.quant_state))
        torch.testing.assert_close(logits(plain), logits(model), rtol=1e-4, atol=1e-4)
    else:
        step = true.abs().amax(1, keepdim=True) / 127
        assert ((weight - true).abs() <= 0.6 * step).all()  # half a step, computed in float16
        assert not torch.equal(weight, true)

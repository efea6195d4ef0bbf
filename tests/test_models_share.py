from __future__ import annotations

import time

import psutil
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from peft_nb.models import ALIASES, bundled
from peft_nb.models.load import forget, load
from peft_nb.models.resolve import resolve
from peft_nb.models.share import keep_unpacked, share
from tests import tiny

IDS = torch.arange(3, 19).reshape(2, 8)


@pytest.fixture(scope="module")
def default():
    bundled.fetch(ALIASES["smollm2-135m"], lambda share, text: None)
    yield load(resolve("smollm2-135m")).model
    forget()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model whose layers have the sizes that bitsandbytes' CPU kernels need."""
    folder = tmp_path_factory.mktemp("tiny")
    sizes = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128}
    tiny.base("llama", **sizes, tie_word_embeddings=True).save_pretrained(folder)
    return folder


def quantized(folder, bits):
    config = {4: {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}}
    return AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        device_map={"": "cpu"},
        quantization_config=BitsAndBytesConfig(**config.get(bits, {"load_in_8bit": True})),
    )


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def with_adapter(model):
    torch.manual_seed(0)
    return tiny.with_lora(share(model))


def memory(model):
    return [tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]]


def gradients(model):
    """Gradients of LoRA weights in every layer: those of the first need all layers above to pass them down."""
    model.train()
    model(IDS, labels=IDS).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_an_adapter_in_a_share_never_reaches_the_base(family):
    base = tiny.base(family)
    before, modules = logits(base), [type(module) for module in base.modules()]
    adapted = with_adapter(base)
    assert not torch.equal(logits(adapted), before)
    assert torch.equal(logits(base), before)
    assert [type(module) for module in base.modules()] == modules
    assert torch.equal(logits(share(base)), before)


def test_the_default_model_is_shared_in_no_time_and_no_memory(default):
    before = logits(default)
    resident, begun = psutil.Process().memory_info().rss, time.perf_counter()
    twin = share(default)
    seconds, grown = time.perf_counter() - begun, psutil.Process().memory_info().rss - resident
    assert seconds < 1
    assert grown < 20e6
    assert memory(twin) == memory(default)
    assert twin.lm_head.weight is twin.model.embed_tokens.weight
    assert not set(map(id, twin.modules())) & set(map(id, default.modules()))
    assert not set(map(id, twin.parameters())) & set(map(id, default.parameters()))
    assert torch.equal(logits(twin), before)


def test_many_runs_live_side_by_side(default):
    before, adapted = logits(default), [with_adapter(default) for _ in range(3)]
    assert torch.equal(logits(adapted[0]), logits(adapted[2]))
    del adapted[1:]
    assert torch.equal(logits(default), before)


def test_what_is_set_on_a_share_stays_there(default):
    twin = share(default)
    twin.config.use_cache = not default.config.use_cache
    twin.generation_config.max_new_tokens = 7
    twin.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    twin.model.layers[1].to(torch.bfloat16)
    twin.model.norm.register_forward_hook(lambda *_: None)
    assert default.config.use_cache != twin.config.use_cache
    assert default.generation_config.max_new_tokens is None
    assert not default.model.layers[0].mlp.up_proj.weight.requires_grad
    assert default.model.layers[1].mlp.up_proj.weight.dtype == torch.float32
    assert not default.model.norm._forward_hooks
    assert twin.model.config is twin.config


def test_tied_weights_stay_tied_when_they_are_moved(folder):
    twin = share(AutoModelForCausalLM.from_pretrained(folder))
    twin.to(torch.bfloat16)
    assert twin.lm_head.weight is twin.model.embed_tokens.weight


def test_a_share_is_frozen_whatever_the_original_was():
    base = tiny.base("gpt2").requires_grad_(True)
    assert not any(parameter.requires_grad for parameter in share(base).parameters())
    assert all(parameter.requires_grad for parameter in base.parameters())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("ran_before", ["nothing", "the base", "another share"])
def test_a_quantized_base_is_shared_in_every_order(folder, bits, ran_before):
    base = keep_unpacked(quantized(folder, bits))
    expected = logits(keep_unpacked(quantized(folder, bits)))
    if ran_before == "the base":
        logits(base)
    elif ran_before == "another share":
        logits(share(base).eval())
    twin = share(base).eval()
    assert memory(twin) == memory(base)
    for model in (twin, base, share(base), share(twin), base, twin):
        assert torch.equal(logits(model.eval()), expected)
    assert memory(twin) == memory(base)


@pytest.mark.parametrize("bits", [4, 8])
def test_an_adapter_trains_on_a_quantized_share_and_leaves_the_base(folder, bits):
    base = keep_unpacked(quantized(folder, bits))
    before = logits(base)
    adapted = with_adapter(base)
    found = gradients(adapted)
    assert found
    assert all(gradient.abs().max() > 0 for gradient in found.values())
    assert torch.equal(logits(base), before)
    again = gradients(with_adapter(base))
    assert all(torch.equal(found[name], again[name]) for name in found)


def test_evaluation_between_training_steps_changes_no_gradient_of_a_4bit_base(folder):
    # As bitsandbytes leaves it, the evaluation repacks the weights and later gradients are wrong without a word.
    expected = gradients(with_adapter(quantized(folder, 4)))
    adapted = with_adapter(quantized(folder, 4))
    logits(adapted.eval())
    found = gradients(adapted)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_4bit_base_that_was_repacked_for_the_cpu_is_unpacked(folder):
    base = quantized(folder, 4)
    original = {n: dequantize_4bit(p.data, p.quant_state) for n, p in base.named_parameters() if p.dtype == torch.uint8}
    expected = logits(keep_unpacked(quantized(folder, 4)))
    logits(base.eval())
    layer = base.model.layers[0].mlp.up_proj
    packed = bool(getattr(layer.weight.quant_state, "packing_format_for_cpu", False))
    assert packed == bool(layer.support_avx512bf16_for_cpu)
    repacked = logits(base)
    twin = share(base).eval()
    for name, weight in original.items():
        parameter = twin.get_parameter(name)
        found = dequantize_4bit(parameter.data, parameter.quant_state)
        torch.testing.assert_close(found, weight, rtol=2**-7, atol=0)  # block scales were rounded to bfloat16
    torch.testing.assert_close(logits(twin), expected, rtol=0.1, atol=0.1)
    assert torch.equal(logits(base), repacked)
    assert all(gradient.abs().max() > 0 for gradient in gradients(with_adapter(base)).values())


def test_a_4bit_share_keeps_its_own_books(folder):
    base = keep_unpacked(quantized(folder, 4))
    twin = share(base)
    for ours, theirs in zip(twin.modules(), base.modules(), strict=True):
        if isinstance(ours, Linear4bit):
            assert ours.weight.module is ours
            assert ours.quant_state is ours.weight.quant_state
            assert ours.quant_state is not theirs.quant_state
            assert ours.quant_state.absmax.data_ptr() == theirs.quant_state.absmax.data_ptr()


def test_a_share_can_be_trained_saved_and_loaded_as_usual(tmp_path):
    base = tiny.base("llama")
    adapted = get_peft_model(share(base), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(tmp_path)
    from peft import PeftModel

    again = PeftModel.from_pretrained(share(base), tmp_path)
    assert torch.equal(logits(again), logits(adapted.eval()))

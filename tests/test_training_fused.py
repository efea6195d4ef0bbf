"""Layers as one function have the stock layers' numbers, keep little, and stand back where a layer is not plain."""

from __future__ import annotations

import gc
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.gemma4.modeling_gemma4 import Gemma4RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from peft_nb.training import fused
from peft_nb.training.fused import LoraProducts, Normed
from tests import tiny


def adapted(bias: bool = False, **options: Any) -> Any:
    """A linear layer with LoRA whose B is not zero."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, bias=bias)).requires_grad_(False)
    model = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, target_modules=["0"], **options))
    nn.init.normal_(model.base_model.model[0].lora_B["default"].weight)
    return model.base_model.model[0]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("ranks", [(2,), (2, 3, 1)], ids=str)
def test_gradients_are_those_of_finite_differences(bias: bool, ranks: tuple[int, ...]) -> None:
    def draw(*shape: int, learned: bool = True) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=learned)

    torch.manual_seed(0)
    outs = [5 + r for r in ranks]
    frozen = [(draw(out, 6, learned=False), draw(out, learned=False) if bias else None) for out in outs]
    learned = [draw(*shape) for r, out in zip(ranks, outs, strict=True) for shape in ((r, 6), (out, r))]

    def products(x: torch.Tensor, *learned: torch.Tensor) -> tuple[torch.Tensor, ...]:
        layers = [one for place, pair in enumerate(frozen) for one in (*pair, *learned[2 * place : 2 * place + 2])]
        return LoraProducts.apply(x, None, [3.0, 0.5, 2.0][: len(ranks)], *layers)

    assert torch.autograd.gradcheck(products, (draw(2, 3, 6), *learned))


def test_layers_that_are_given_other_inputs_each_compute_with_theirs() -> None:
    model = tiny.with_lora(tiny.base("llama"))
    attention = model.base_model.model.model.layers[0].self_attn
    one, other = torch.randn(2, 1, 3, attention.q_proj.in_features)
    right = attention.q_proj(one), attention.k_proj(other), attention.k_proj(one), attention.v_proj(one)
    with fused.installed(model):
        found = attention.q_proj(one), attention.k_proj(other), attention.k_proj(one), attention.v_proj(one)
    torch.testing.assert_close(found, right)


def test_what_a_layer_did_not_ask_for_is_forgotten_when_its_pass_ends_or_fails() -> None:
    class Skipping(nn.Module):
        def __init__(self, attention: Any) -> None:
            super().__init__()
            self.q_proj, self.k_proj, self.v_proj = attention.q_proj, attention.k_proj, attention.v_proj

        def forward(self, x: torch.Tensor, fails: bool = False) -> torch.Tensor:
            out = self.q_proj(x)
            if fails:
                raise ValueError
            return out

    model = tiny.with_lora(tiny.base("llama"))
    layer = Skipping(model.base_model.model.model.layers[0].self_attn)
    x = torch.randn(1, 3, layer.q_proj.in_features)
    with fused.installed(layer):
        for fails in (False, True):
            out = None
            with suppress(ValueError):
                out = layer(x.clone(), fails)
            del out
            gc.collect()
            alive = [one for one in gc.get_objects() if type(one) is torch.Tensor and one.shape == x.shape]
            assert [one for one in alive if one is not x] == []


@pytest.mark.parametrize("bias", [False, True])
def test_the_output_is_that_of_the_stock_layer(bias: bool) -> None:
    layer, x = adapted(bias), torch.randn(4, 6)
    stock = layer(x)
    with fused.installed(layer):
        found = layer(x)
    assert type(found.grad_fn).__name__ == "LoraProductsBackward"
    torch.testing.assert_close(found, stock)
    assert "forward" not in vars(layer)


def test_an_adapter_in_float32_beside_a_base_in_bfloat16_gets_gradients_in_float32() -> None:
    layer = adapted()
    layer.get_base_layer().to(torch.bfloat16)
    with fused.installed(layer):
        found = layer(torch.randn(4, 6, dtype=torch.bfloat16))
        found.float().sum().backward()
    assert found.dtype == torch.bfloat16
    assert layer.lora_A["default"].weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    "options", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}], ids=lambda options: next(iter(options))
)
def test_a_layer_that_computes_more_is_left_to_peft(options: dict[str, Any]) -> None:
    assert fused.fits(adapted())
    assert not fused.fits(adapted(bias=True, **options))


def test_a_layer_in_another_state_is_left_to_peft() -> None:
    merged, disabled, trained = adapted(), adapted(), adapted()
    merged.merge()
    disabled.enable_adapters(False)
    trained.get_base_layer().weight.requires_grad_(True)
    assert not any(map(fused.fits, (merged, disabled, trained, nn.Linear(6, 5))))


def test_a_model_that_is_installed_is_its_base_while_the_adapter_is_disabled() -> None:
    model, ids = tiny.with_lora(tiny.base("llama")), torch.tensor([[5, 6, 7]])
    with model.disable_adapter():
        bare = model(input_ids=ids).logits
    with fused.installed(model):
        with model.disable_adapter():
            torch.testing.assert_close(model(input_ids=ids).logits, bare)
        model(input_ids=ids).logits.sum().backward()
    assert all(one.grad is not None for name, one in model.named_parameters() if "lora_" in name)


def test_every_layer_of_a_model_is_installed_and_taken_out_again() -> None:
    model = tiny.with_lora(tiny.base("llama"))
    with fused.installed(model):
        found = Counter(type(module).__name__ for module in model.modules() if "forward" in vars(module))
        assert found == {"Linear": 14, "LlamaRMSNorm": 5, "LlamaMLP": 2}
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("gemma", [False, True])
def test_the_gradient_of_a_norm_is_that_of_finite_differences(gemma: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True), torch.randn(8, dtype=torch.float64)
    stock = torch.nn.functional.rms_norm(x, (8,), weight + gemma, 1e-6)
    found, _ = Normed.apply(x, weight, 1e-6, gemma)
    torch.testing.assert_close(found, stock, rtol=1e-5, atol=1e-6)  # norms compute in float32
    given = torch.randn_like(x)
    grads = [torch.autograd.grad(one, x, given)[0] for one in (found, stock)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [LlamaRMSNorm, GemmaRMSNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_of_either_kind_are_found_and_equal_to_the_last_bit(kind: type[nn.Module], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = kind(16, eps=1e-5).to(dtype).requires_grad_(False), torch.randn(1, 5, 16, dtype=dtype)
    nn.init.normal_(layer.weight)
    stock = layer(x)
    with fused.installed(layer):
        assert "forward" in vars(layer)
        assert torch.equal(layer(x), stock)


def test_a_norm_of_another_formula_or_with_a_trained_weight_is_left_alone() -> None:
    class OtherRMSNorm(LlamaRMSNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 1.01

    for layer in (OtherRMSNorm(16).requires_grad_(False), LlamaRMSNorm(16)):
        with fused.installed(layer):
            assert "forward" not in vars(layer)


def test_a_norm_without_a_weight_is_left_alone_beside_others_of_its_class() -> None:
    norms, x = nn.Sequential(Gemma4RMSNorm(16), Gemma4RMSNorm(16, with_scale=False)), torch.randn(1, 5, 16)
    norms.requires_grad_(False)
    stock = norms(x)
    with fused.installed(norms):
        assert [("forward" in vars(one)) for one in norms] == [True, False]
        assert torch.equal(norms(x), stock)


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_a_model_keeps_less_and_has_the_same_gradients(family: str) -> None:
    def run() -> tuple[int, list[torch.Tensor]]:
        kept = dict[int, int]()

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = model(input_ids=ids, use_cache=False).logits.square().mean()
        return sum(kept.values()), list(torch.autograd.grad(loss, trained))

    model, ids = tiny.with_lora(tiny.base(family)), torch.arange(60).view(2, 30)
    trained = [one for one in model.parameters() if one.requires_grad]
    weights = {one.untyped_storage().data_ptr() for one in [*model.parameters(), *model.buffers()]}
    stock, right = run()
    with fused.installed(model):
        less, found = run()
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-7)
    assert less < 0.75 * stock


def test_gradients_reach_through_what_is_computed_anew_under_gradient_checkpointing() -> None:
    model, ids = tiny.with_lora(tiny.base("llama")), torch.arange(30).view(1, 30)
    trained = [one for one in model.parameters() if one.requires_grad]

    def gradients() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(model(input_ids=ids, use_cache=False).logits.square().mean(), trained)

    right = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    with fused.installed(model):
        torch.testing.assert_close(gradients(), right, rtol=1e-4, atol=5e-7)

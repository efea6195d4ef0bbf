"""A LoRA layer as one function has the stock layer's numbers, and stands back where the layer is not plain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from peft_nb.training import fused
from peft_nb.training.fused import LoraProduct
from tests import tiny


def adapted(bias: bool = False, **options: Any) -> Any:
    """A linear layer with LoRA whose B is not zero."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, bias=bias)).requires_grad_(False)
    model = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, target_modules=["0"], **options))
    nn.init.normal_(model.base_model.model[0].lora_B["default"].weight)
    return model.base_model.model[0]


@pytest.mark.parametrize("bias", [False, True])
def test_gradients_are_those_of_finite_differences(bias: bool) -> None:
    torch.manual_seed(0)
    x, a, b = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 6), (2, 6), (5, 2)))
    weight, offset = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, dtype=torch.float64) if bias else None
    assert torch.autograd.gradcheck(lambda x, a, b: LoraProduct.apply(x, weight, offset, a, b, 3.0), (x, a, b))


@pytest.mark.parametrize("bias", [False, True])
def test_the_output_is_that_of_the_stock_layer(bias: bool) -> None:
    layer, x = adapted(bias), torch.randn(4, 6)
    stock = layer(x)
    with fused.installed(layer):
        found = layer(x)
    assert type(found.grad_fn).__name__ == "LoraProductBackward"
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


def test_every_layer_of_a_model_is_installed_and_taken_out_again() -> None:
    model = tiny.with_lora(tiny.base("llama"))
    with fused.installed(model):
        assert sum("forward" in vars(module) for module in model.modules()) == 14
    assert not any("forward" in vars(module) for module in model.modules())

"""What variants of LoRA begin with, and that nothing of it stays in the base."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from peft_nb.methods import REGISTRY, attach
from peft_nb.models.share import share
from peft_nb.runs.run import Run
from peft_nb.spec import RunSpec
from tests import tiny
from tests.every_method import LINEAR

IDS = torch.arange(3, 19).reshape(2, 8)


def layers(model: Any) -> list[Any]:
    return [one for one in model.modules() if isinstance(one, LoraLayer)]


@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_a_principal_part_is_trained_and_what_is_left_is_lora_on_the_base_as_it_was(name: str) -> None:
    base = tiny.base("llama")
    spec = RunSpec(data="none", method=name, r=4, alpha=4)
    model, hooks = attach(share(base), spec, "base"), REGISTRY[name].hooks(spec)
    with torch.no_grad():
        before = model(IDS).logits
        weights = [one.get_base_layer().weight for one in layers(model)]
        hooks.begin(model, [])
        torch.testing.assert_close(model(IDS).logits, before, rtol=1e-4, atol=1e-4)
        assert all(one.lora_A["default"].weight.abs().max() > 0 for one in layers(model))
        assert not any(
            torch.equal(one.get_base_layer().weight, was) for one, was in zip(layers(model), weights, strict=True)
        )
        for one in layers(model):
            one.lora_B["default"].weight.mul_(1.5)
        trained = model(IDS).logits
        hooks.end(model)
        torch.testing.assert_close(model(IDS).logits, trained, rtol=1e-3, atol=1e-3)
        assert (trained - before).abs().max() > 0.01
        with model.disable_adapter():
            assert torch.equal(model(IDS).logits, before)
    assert [one.get_base_layer().weight for one in layers(model)] == weights
    assert (model.peft_config["default"].r, model.peft_config["default"].lora_alpha) == (8, 8)


@pytest.mark.parametrize(("options", "ratio"), [({}, 16.0), ({"lr_ratio": 4.0}, 4.0)])
def test_lora_plus_lets_the_second_matrix_learn_faster(options: dict[str, float], ratio: float) -> None:
    hooks = REGISTRY["lora-plus"].hooks(RunSpec(data="none", method="lora-plus", method_options=options))
    model = attach(tiny.base("llama"), RunSpec(data="none", method="lora-plus"), "base")
    rates = {name: hooks.faster(name) for name, one in model.named_parameters() if one.requires_grad}
    assert {rate for name, rate in rates.items() if "lora_B" in name} == {ratio}
    assert {rate for name, rate in rates.items() if "lora_A" in name} == {1.0}


@pytest.mark.exhaustive
def test_eva_spreads_the_ranks_of_lora_over_the_layers(trained: Callable[[str], Run]) -> None:
    run = trained("eva")
    ranks = {name: layer.r["default"] for name, layer in run.model.named_modules() if hasattr(layer, "lora_A")}
    assert sum(ranks.values()) <= 4 * len(LINEAR)
    assert len({*ranks.values()}) > 1

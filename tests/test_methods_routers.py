"""Routers of mixtures of experts are left alone, and such models train."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    GraniteMoeConfig,
    Llama4TextConfig,
    MixtralConfig,
    PhimoeConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
)

from peft_nb.methods import attach
from peft_nb.methods.routers import routers
from peft_nb.spec import RunSpec
from peft_nb.system import adapter_weights
from tests import tiny

EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES = {
    "llama4": Llama4TextConfig(
        **tiny.GROUPED, **EXPERTS, intermediate_size_mlp=48, head_dim=8, attn_temperature_tuning=False
    ),
    "phimoe": PhimoeConfig(**tiny.GROUPED, **EXPERTS),
    "mixtral": MixtralConfig(**tiny.GROUPED, **EXPERTS),
    "gpt-oss": GptOssConfig(**tiny.GROUPED, **EXPERTS, head_dim=8),
    "granitemoe": GraniteMoeConfig(**tiny.GROUPED, **EXPERTS),
    "qwen2-moe": Qwen2MoeConfig(
        **tiny.GROUPED,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
}
LINEAR = {"llama4": {"router"}, "phimoe": {"router"}, "qwen2-moe": {"shared_expert_gate"}}
IDS = torch.arange(3, 27).reshape(2, 12)


def mixture(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(FAMILIES[family]).requires_grad_(False)


def adapted(model: PreTrainedModel) -> set[str]:
    """Names below their layers of the modules that have adapters."""
    tuner = model.base_model.targeted_module_names
    return {name.rpartition(".")[2] for name in tuner}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_routers_of_a_family_are_found(family: str) -> None:
    model = mixture(family)
    found = routers(model)
    assert len([name for name in found if name.rpartition(".")[0] not in found]) in (2, 4)
    linear = {name.rpartition(".")[2] for name in found if isinstance(model.get_submodule(name), torch.nn.Linear)}
    assert linear == LINEAR.get(family, set())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_dense_model_has_none(family: str) -> None:
    assert routers(tiny.base(family)) == set()


@pytest.mark.parametrize("method", ["lora", "vera", "bitfit"])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_leaves_routers_alone_and_trains(family: str, method: str, tmp_path: Path) -> None:
    model = attach(mixture(family), RunSpec(data="x", method=method), "")
    assert not adapted(model) & {"router", "gate", "shared_expert_gate"}
    assert adapted(model) & {"q_proj", "input_layernorm"}
    model.train()(IDS, labels=IDS).loss.backward()
    trained = [one for one in model.parameters() if one.requires_grad]
    assert all(one.grad is not None and one.grad.isfinite().all() for one in trained)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    loaded: PeftModel = adapter_weights.load(mixture(family), tmp_path)
    assert torch.equal(loaded(IDS).logits, model.eval()(IDS).logits)


def test_a_router_that_is_named_gets_an_adapter() -> None:
    model = attach(mixture("qwen2-moe"), RunSpec(data="x", target_modules=["shared_expert_gate"]), "")
    assert model.base_model.targeted_module_names == [f"model.layers.{n}.mlp.shared_expert_gate" for n in (0, 1)]

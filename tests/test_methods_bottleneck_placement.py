"""Where adapters attach, by names alone."""

from __future__ import annotations

import re

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, GPTJConfig

from peft_nb.errors import MethodError
from peft_nb.methods.bottleneck.model import BottleneckConfig
from peft_nb.methods.bottleneck.placement import PLACEMENTS, find
from tests import tiny

LLAMA = [f"model.layers.{layer}.{name}" for layer in range(3) for name in ("self_attn.o_proj", "mlp", "mlp.down_proj")]
LLAMA += ["model.layers.0", "model.layers.1", "model.layers.2", "lm_head", "model.norm"]


@pytest.mark.parametrize(
    ("placement", "own"),
    [("houlsby", {"self_attn.o_proj", "mlp.down_proj"}), ("pfeiffer", {"mlp.down_proj"}), ("parallel", {"mlp"})],
)
def test_the_expression_fits_these_modules_of_every_layer_and_no_other(placement: str, own: set[str]) -> None:
    found = {name for name in LLAMA if re.fullmatch(find(placement, LLAMA, "Llama"), name)}
    assert found == {f"model.layers.{layer}.{name}" for layer in range(3) for name in own}


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_layer_that_is_passed_over_is_counted(placement: str) -> None:
    some = [name for name in LLAMA if not name.startswith("model.layers.1.")]
    with pytest.raises(MethodError, match=r"^target_modules: 1 of 3 layers of Llama have no module known to the "):
        find(placement, some, "Llama")


def test_a_model_without_known_layers_says_what_to_give() -> None:
    with pytest.raises(MethodError, match="target_modules: Sequential has no module known .* name the linear layers"):
        get_peft_model(nn.Sequential(nn.Linear(4, 4)), BottleneckConfig())


def test_a_model_with_known_layers_here_and_there_is_refused() -> None:
    model = tiny.base("llama")
    model.model.layers[1].mlp = nn.Identity()
    with pytest.raises(MethodError, match="target_modules: 1 of 2 layers of LlamaForCausalLM"):
        get_peft_model(model, BottleneckConfig())


@pytest.mark.parametrize(
    ("placement", "own"),
    [("houlsby", ["attn.out_proj", "mlp.fc_out"]), ("pfeiffer", ["mlp.fc_out"]), ("parallel", ["mlp"])],
)
def test_gpt_j_trains_in_every_placement(placement: str, own: list[str]) -> None:
    config = GPTJConfig(vocab_size=tiny.VOCABULARY, n_embd=32, n_layer=2, n_head=4, rotary_dim=4)
    base = AutoModelForCausalLM.from_config(config)
    model = get_peft_model(base, BottleneckConfig(task_type="CAUSAL_LM", placement=placement, non_linearity="gelu"))
    assert model.base_model.targeted_module_names == [f"transformer.h.{n}.{name}" for n in (0, 1) for name in own]
    every_parameter_learns(model)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_parameter_beside_conv1d_learns(placement: str) -> None:
    every_parameter_learns(
        get_peft_model(tiny.base("gpt2"), BottleneckConfig(task_type="CAUSAL_LM", placement=placement, layer_norm=True))
    )


def every_parameter_learns(model: PeftModel) -> None:
    """Two steps: in the first the up projection alone moves, for it is zero."""
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    ids = torch.arange(3, 27).reshape(2, 12)
    for _ in range(2):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    still = [name for name, one in model.named_parameters() if one.requires_grad and torch.equal(one, before[name])]
    assert still == []

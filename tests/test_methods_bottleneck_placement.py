"""Where adapters attach, by names alone."""

from __future__ import annotations

import re

import pytest
from peft import get_peft_model
from torch import nn

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

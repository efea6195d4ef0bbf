"""Which layers BitFit chooses."""

from __future__ import annotations

import pytest
from peft import get_peft_model
from torch import nn

from peft_nb.errors import MethodError
from peft_nb.methods.bitfit.layer import BitFitLayer
from peft_nb.methods.bitfit.model import BitFitConfig
from tests import tiny


def test_targets_that_fit_nothing_are_one_line_and_leave_the_model() -> None:
    model = tiny.base("qwen2")
    with pytest.raises(MethodError, match=r"^target_modules: \['o_proj'\] fits no bias of Qwen2ForCausalLM; leave it "):
        get_peft_model(model, BitFitConfig(target_modules=["o_proj"]))
    assert not [one for one in model.modules() if isinstance(one, BitFitLayer)]
    adapter = get_peft_model(model, BitFitConfig(target_modules=["o_proj"], add="all"))
    assert adapter.get_nb_trainable_parameters()[0] == 2 * 32


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(MethodError, match="no layer of ModuleDict could carry a bias"):
        get_peft_model(nn.ModuleDict({"words": nn.Embedding(4, 2)}), BitFitConfig())

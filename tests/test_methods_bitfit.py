"""BitFit in the registry, and the line that says which biases it trains."""

from __future__ import annotations

from typing import Any

import pytest
from peft import get_peft_model

from peft_nb.methods import REGISTRY, attach, bitfit
from peft_nb.methods.bitfit.model import BitFitConfig
from peft_nb.models.share import share
from peft_nb.spec import RunSpec
from tests import tiny

BARE = 2 * (32 + 16 + 16 + 32 + 48 + 48 + 32)  # layers times q, k, v, o, gate, up, down


@pytest.mark.parametrize(
    ("family", "options", "told"),
    [
        (
            "llama",
            {},
            "bitfit: 14 zero-initialised biases were added to the linear layers of LlamaForCausalLM, which had none",
        ),
        ("gpt2", {}, "bitfit: 13 biases of GPT2LMHeadModel are trained"),
        (
            "qwen2",
            {"add": "all"},
            "bitfit: 6 biases of Qwen2ForCausalLM are trained, and 8 zero-initialised ones were added to linear "
            "layers that had none",
        ),
        ("phi", {"target_modules": ["q_proj", "fc2"]}, "bitfit: 4 biases of PhiForCausalLM are trained"),
        ("gpt2", {"target_modules": r".*\.h\.1\..*"}, "bitfit: 6 biases of GPT2LMHeadModel are trained"),
    ],
)
def test_one_line_says_what_was_done(family: str, options: dict[str, Any], told: str) -> None:
    assert bitfit.describe(get_peft_model(tiny.base(family), BitFitConfig(**options))) == told


def test_it_is_registered_and_attaches() -> None:
    assert REGISTRY["bitfit"].quantizations == ("none", "4bit", "8bit")
    model = attach(share(tiny.base("llama")), RunSpec(data="x", method="bitfit"), "some/base")
    assert model.get_nb_trainable_parameters()[0] == BARE
    assert model.peft_config["default"].base_model_name_or_path == "some/base"

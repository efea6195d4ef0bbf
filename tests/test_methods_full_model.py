"""Which parts are trained, and what is refused before any is wrapped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from peft_nb.errors import MethodError
from peft_nb.methods.full.model import FullConfig, trained
from peft_nb.models.share import share
from tests import tiny


def test_tied_weights_appear_with_every_module_that_holds_them() -> None:
    base = tiny.base("llama", tie_word_embeddings=True)
    assert trained(base, FullConfig(target_modules=["lm_head"])) == {
        "model.embed_tokens": ["weight"],
        "lm_head": ["weight"],
    }
    everything = trained(base, FullConfig())
    assert {*everything} > {"model.norm", "model.layers.0.mlp.up_proj", "lm_head"}
    assert "lm_head" not in trained(base, FullConfig(exclude_modules=["embed_tokens"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": "layers.["}, "target_modules: 'layers.\\[' is no regular expression"),
        ({"target_modules": []}, "names no modules"),
        ({"exclude_modules": [3]}, "exclude_modules: \\[3\\] names no modules"),
        ({"target_modules": ["nowhere"]}, "'nowhere'.* leaves nothing .* such as model.embed_tokens"),
        ({"exclude_modules": ".*"}, "leaves nothing"),
    ],
)
def test_mistakes_are_one_line(options: dict[str, object], message: str) -> None:
    base = tiny.base("llama")
    kinds = [type(module) for module in base.modules()]
    with pytest.raises(MethodError, match=message) as error:
        get_peft_model(share(base), FullConfig(task_type="CAUSAL_LM", **options))
    assert "\n" not in str(error.value)
    assert [type(module) for module in base.modules()] == kinds


class Block(nn.Module):
    """A module with a parameter of its own, and modules within it that have theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.inner = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, self.scale * self.inner(x))[0]


def test_copies_within_a_module_that_has_its_own_are_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base, x = nn.ModuleDict({"block": Block()}), torch.randn(3, 4)
    adapted = get_peft_model(share(base), FullConfig())
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter)
    expected = adapted.get_base_model()["block"](x)
    assert not torch.equal(expected, base["block"](x))
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(share(base), tmp_path)
    assert torch.equal(loaded.get_base_model()["block"](x), expected)

"""Which parts are trained, and what is refused before any is wrapped."""

from __future__ import annotations

import pytest
from peft import get_peft_model

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

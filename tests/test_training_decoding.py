"""Products with weights laid out once are those of the layers, and so are keys and values that have room."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import DynamicCache

from peft_nb.system import torch_private
from peft_nb.training import decoding
from tests.tiny import VOCABULARY, base, with_lora

pytestmark = pytest.mark.skipif(
    not torch_private.packs(torch.ones(1, 1, dtype=torch.bfloat16)), reason="oneDNN computes no bfloat16 here"
)

IDS = torch.arange(3, 3 + 2 * 7).view(2, 7) % VOCABULARY


def quick(model: Any) -> list[str]:
    """Layers whose forward pass is not their own."""
    return [name for name, one in model.named_modules() if "forward" in vars(one)]


def computed(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of some prompts with the weights laid out, and by the layers' own forward passes."""
    with torch.no_grad():
        own = model(IDS).logits.float()
        with decoding.installed(model, 2, 16):
            assert quick(model)
            found = model(IDS).logits.float()
    assert not quick(model)
    return found, own


def assert_rounded(model: Any) -> None:
    """Both are as far from what float32 gives, and that is little."""
    found, own = computed(model)
    with torch.no_grad():
        exact = model.float()(IDS).logits
    model.bfloat16()
    assert (found - exact).norm() < 1.5 * (own - exact).norm() < 0.1 * exact.norm()


def lora(model: Any, **options: Any) -> Any:
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    return adapted.eval()


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt-neox", "phi"])
def test_a_model_computes_what_it_did_but_for_rounding(family: str) -> None:
    assert_rounded(with_lora(base(family).bfloat16()).eval())


def test_layers_of_one_input_may_have_different_adapters_or_none() -> None:
    options: dict[str, Any] = {"target_modules": ["q_proj", "v_proj", "up_proj"], "rank_pattern": {"v_proj": 2}}
    some = lora(base("qwen2").bfloat16(), r=4, **options)
    assert_rounded(some)
    with some.disable_adapter():
        assert_rounded(some)
    attention = some.get_base_model().model.layers[0].self_attn
    one, other = torch.randn(2, 3, 1, attention.q_proj.in_features).bfloat16()
    with torch.no_grad():
        right = attention.q_proj(one), attention.k_proj(other), attention.k_proj(one), attention.v_proj(one)
        with decoding.installed(some, 2, 16):
            assert {"forward"} <= vars(attention.k_proj).keys() & vars(attention.q_proj).keys()
            found = attention.q_proj(one), attention.k_proj(other), attention.k_proj(one), attention.v_proj(one)
    for given, wanted in zip(found, right, strict=True):
        assert (given - wanted).norm() < 1e-2 * wanted.norm()


def test_variants_of_lora_and_other_types_of_numbers_compute_as_they_are() -> None:
    dora = lora(base("llama").bfloat16(), target_modules=["q_proj"], use_dora=True)
    with decoding.installed(dora, 2, 16):
        changed = quick(dora)
        assert not any(name.endswith("q_proj") for name in changed)
        assert any(name.endswith("k_proj") for name in changed)
    for model in (base("llama"), base("llama").double()):
        with decoding.installed(model, 2, 16):
            assert not quick(model)


def test_what_differs_is_left_to_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model, product = with_lora(base("llama").bfloat16()).eval(), torch_private.product
    monkeypatch.setattr(torch_private, "product", lambda *given: product(*given) * 1.05)
    found, own = computed(model)
    assert torch.equal(found, own)


def test_few_tokens_and_little_memory_are_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = base("llama").bfloat16()
    with decoding.installed(model, 2, decoding.FEWEST - 1):
        assert not quick(model)
    monkeypatch.setattr(decoding, "SHARE", 0.0)
    with decoding.installed(model, 2, 16):
        assert not quick(model)


def test_the_layers_get_their_own_forward_passes_back_when_something_fails() -> None:
    model = base("llama").bfloat16()
    with pytest.raises(ZeroDivisionError), decoding.installed(model, 2, 16):
        raise ZeroDivisionError
    assert not quick(model)


def test_a_token_is_written_where_there_is_room_for_it() -> None:
    config = base("llama").config
    roomy, usual = decoding.cache(config, 3), DynamicCache(config=config)
    places = set[int]()

    def both(count: int, rows: int) -> None:
        keys, values = torch.randn(2, rows, 2, count, 8)
        found, wanted = (one.update(keys, values, 0) for one in (roomy, usual))
        assert all(map(torch.equal, found, wanted))
        assert roomy.get_seq_length() == usual.get_seq_length()
        places.add(found[0].data_ptr())

    both(5, 2)
    for one in (roomy, usual):
        one.batch_repeat_interleave(3)
    for _ in range(4):
        both(1, 6)
    assert len(places) == 2
    for one in (roomy, usual):
        one.crop(-2)
    both(1, 6)
    assert len(places) == 2
    both(3, 6)
    assert len(places) == 3


def test_local_attention_keeps_what_it_sees() -> None:
    config = base("mistral-window").config
    assert [type(one) for one in decoding.cache(config, 3).layers] == [
        type(one) for one in DynamicCache(config=config).layers
    ]

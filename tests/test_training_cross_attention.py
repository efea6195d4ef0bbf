"""Attention whose keys and values are never made gives what the stock one does, and its gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperAttention

from peft_nb.training import cross_attention, fused


def attention(adapted: Any = ("k_proj", "v_proj", "q_proj"), **lora: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        holder = nn.ModuleDict({"cross": WhisperAttention(32, 4, is_decoder=True, layer_idx=0, config=WhisperConfig())})
        if adapted:
            options = {"r": 4, "init_lora_weights": False, **lora}
            inject_adapter_in_model(LoraConfig(target_modules=list(adapted), **options), holder)
    return holder["cross"]


def outcome(one: Any, **options: Any) -> list[torch.Tensor]:
    """The output, and the gradients of what is trained and of both inputs."""
    draw = torch.Generator().manual_seed(1)
    hidden, states = (torch.randn(2, places, 32, generator=draw).requires_grad_() for places in (5, 40))
    found = one(hidden, key_value_states=states, **options)[0]
    trained = [part for part in one.parameters() if part.requires_grad]
    return [found, *torch.autograd.grad(found.square().sum(), [hidden, states, *trained], allow_unused=True)]


@pytest.mark.parametrize("adapted", [("k_proj", "v_proj", "q_proj"), ("v_proj",), ()], ids=str)
@pytest.mark.parametrize("with_fused", [False, True])
def test_outputs_and_gradients_are_those_of_the_stock_attention(adapted: Any, with_fused: bool) -> None:
    one = attention(adapted)
    for name in ("k_proj", "v_proj"):
        getattr(one, name).requires_grad_(bool(not adapted))
        for part in (p for n, p in one.named_parameters() if "lora" in n):
            part.requires_grad_()
    wanted, stock = outcome(one), one.forward
    with cross_attention.installed([one]):
        assert one.forward != stock
        if with_fused:
            with fused.installed(one):
                found = outcome(one)
        else:
            found = outcome(one)
    for own, other in zip(found, wanted, strict=True):
        if own is not None or other is not None:
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
    assert one.forward == stock


def test_what_is_not_plain_stays_as_it_is() -> None:
    for one in (attention(use_dora=True), attention(lora_dropout=0.5)):
        stock = one.forward
        with cross_attention.installed([one]):
            assert one.forward == stock
    one = attention()
    mask = torch.zeros(2, 1, 5, 40)
    mask[:, :, :, 20:] = torch.finfo(torch.float32).min
    wanted = outcome(one, attention_mask=mask)
    with cross_attention.installed([one]):
        torch.testing.assert_close(outcome(one, attention_mask=mask), wanted)
        for name in ("k_proj", "v_proj", "q_proj"):
            getattr(one, name).enable_adapters(False)
        off = outcome(one)[0]
    torch.testing.assert_close(off, outcome(one)[0], rtol=1e-4, atol=1e-5)

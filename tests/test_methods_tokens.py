"""What methods that train tokens want done besides."""

from __future__ import annotations

import pytest
import torch

from peft_nb.methods import REGISTRY, attach
from peft_nb.spec import RunSpec
from tests import tiny

IDS = torch.arange(3, 19).reshape(2, 8)


@pytest.mark.parametrize("name", ["p-tuning", "prefix"])
def test_the_network_that_writes_tokens_is_saved_and_set_again(name: str) -> None:
    spec = RunSpec(data="none", method=name)
    model, hooks = attach(tiny.base("llama"), spec, "base"), REGISTRY[name].hooks(spec)
    state = {key: tensor.clone() for key, tensor in hooks.state(model).items()}
    assert state
    before = model(IDS).logits
    with torch.no_grad():
        for one in model.parameters():
            if one.requires_grad:
                one.add_(1.0)
        assert not torch.allclose(model(IDS).logits, before)
        hooks.restore(model, state)
        torch.testing.assert_close(model(IDS).logits, before)


def test_a_prompt_in_float32_is_used_in_the_dtype_of_a_base_in_bfloat16() -> None:
    spec = RunSpec(data="none", method="adaption-prompt")
    model = attach(tiny.base("llama").to(torch.bfloat16), spec, "base")
    REGISTRY["adaption-prompt"].hooks(spec).begin(model, [])
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    assert {one.dtype for one in trained.values()} == {torch.float32}
    with torch.no_grad():
        for one in trained.values():
            one.fill_(0.5)
    logits = model(IDS).logits
    assert logits.dtype == torch.bfloat16
    logits.float().logsumexp(-1).sum().backward()
    assert all(one.grad is not None for one in trained.values())
    assert all(one is trained[name] for name, one in model.named_parameters() if one.requires_grad)

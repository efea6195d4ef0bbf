"""Norms that are trained beside a base in bfloat16."""

from __future__ import annotations

import torch

from peft_nb.methods import REGISTRY, attach
from peft_nb.spec import RunSpec
from tests import tiny


def test_norms_in_float32_give_what_the_bases_own_give() -> None:
    base = tiny.base("llama").to(torch.bfloat16)
    ids = torch.arange(3, 19).reshape(2, 8)
    with torch.no_grad():
        bare = base(ids).logits
    spec = RunSpec(data="none", method="ln-tuning")
    model = attach(base, spec, "base")
    REGISTRY["ln-tuning"].hooks(spec).begin(model, [])
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.float32}
    logits = model(ids).logits
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits, bare, rtol=0.05, atol=0.05)
    logits.float().logsumexp(-1).sum().backward()
    assert all(
        one.grad is not None and one.grad.dtype == torch.float32 for one in model.parameters() if one.requires_grad
    )

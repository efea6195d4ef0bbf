"""A method that wants nothing beside the usual changes nothing."""

from __future__ import annotations

import torch
from torch import nn

from peft_nb.training.hooks import Hooks


def test_the_usual_hooks_do_nothing() -> None:
    model, hooks = nn.Linear(2, 2), Hooks()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hooks.begin(model, [])  # type: ignore[arg-type]
    hooks.stepped(model, 1)  # type: ignore[arg-type]
    hooks.restore(model, hooks.state(model))  # type: ignore[arg-type]
    hooks.end(model)  # type: ignore[arg-type]
    assert hooks.penalty(model) is None  # type: ignore[arg-type]
    assert hooks.state(model) == {}  # type: ignore[arg-type]
    assert hooks.faster("lora_B") == 1.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

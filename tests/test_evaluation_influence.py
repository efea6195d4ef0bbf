"""Gradients of rows on the adapter, against plain autograd and against a step that is really taken."""

from __future__ import annotations

import copy

import pytest
import torch

from peft_nb.errors import MethodError
from peft_nb.evaluation.influence import tracin, trainable
from peft_nb.training.objectives import Padded, PaddingFree
from tests import tiny

ROWS = [tiny.Tokens([3 + (k * n) % 70 for k in range(2, 12)], [False] * 4 + [True] * 6) for n in (3, 5, 11)]


def lively(model: object) -> object:
    """A LoRA whose B is not zero, so that A has gradients too."""
    with torch.no_grad():
        for name, one in model.named_parameters():  # type: ignore[attr-defined]
            if "lora_B" in name:
                one.normal_(0, 0.05)
    return model.eval()  # type: ignore[attr-defined]


def test_a_row_has_as_much_influence_as_a_small_step_on_it_lowers_the_loss() -> None:
    model = lively(tiny.with_lora(tiny.base("llama")))
    model.requires_grad_(False)
    path, answer = Padded(0), ROWS[0]
    with trainable(model) as parameters:
        found = tracin(model, path, parameters, ROWS, answer)
        assert found.cosines[0] == pytest.approx(1, abs=1e-5)
        assert (abs(found.cosines[1:]) < 1).all()
        for row, dot in zip(ROWS, found.dots, strict=True):
            other, rate = copy.deepcopy(model), 1e-3
            own = [one for name, one in other.named_parameters() if one.requires_grad]
            targets = path.targets([row])
            grads = torch.autograd.grad(path.loss(other, [row], other.device) / targets, own)
            before = float(path.loss(other, [answer], other.device).detach())
            with torch.no_grad():
                for one, grad in zip(own, grads, strict=True):
                    one -= rate * grad
            fell = (before - float(path.loss(other, [answer], other.device).detach())) / path.targets([answer])
            assert dot == pytest.approx(fell / rate, rel=0.1, abs=0.02)
    assert not any(one.requires_grad for one in model.parameters())
    with trainable(model) as parameters:
        packed = tracin(model, PaddingFree(False), parameters, ROWS, answer)
    assert packed.cosines == pytest.approx(found.cosines, abs=1e-4)


def test_a_model_without_an_adapter_has_nothing_to_follow() -> None:
    with pytest.raises(MethodError, match="no parameters of its own"), trainable(tiny.base("llama")):
        pass

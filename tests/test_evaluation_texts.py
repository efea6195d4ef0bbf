"""What a head says of texts comes in the order of the texts, whatever the cut."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from peft_nb.data.examples import Example
from peft_nb.evaluation.texts import logits
from peft_nb.models import head
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from peft_nb.training.text_objective import TextObjective

CPU = torch.device("cpu")
OBJECTIVE = TextObjective(0, lambda logits, texts: logits.sum())
TEXTS = [Example.whole(ids) for ids in ([2, 5, 6, 3], [2, 3], [2, 9, 10, 11, 12, 5, 3], [2, 6, 3], [2, 8, 7, 3])]


class Lengths(torch.nn.Module):
    """A model whose logits are a text's second token and its length."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        self.asked.append(input_ids.numel())
        return SimpleNamespace(logits=torch.stack([input_ids[:, 1], attention_mask.sum(1)], 1))


@pytest.mark.parametrize(("budget", "calls"), [(1, 5), (8, 3), (1000, 1)])
def test_the_order_is_that_of_the_texts(budget: int, calls: int) -> None:
    model = Lengths()
    found = logits(model, OBJECTIVE, TEXTS, CPU, budget)
    assert found.tolist() == [[one.ids[1], len(one.ids)] for one in TEXTS]
    assert (found.dtype, len(model.asked)) == (torch.float32, calls)
    assert all(tokens <= max(budget, 7) for tokens in model.asked)


def test_a_real_head_says_of_texts_together_what_it_says_of_each_alone(encoder: Path) -> None:
    torch.manual_seed(0)
    base = load(resolve(str(encoder)), kind=None, dtype="float32")
    model = head.build(base, ("a", "b", "c"), "single_label_classification")[0].eval()
    wanted = torch.cat([model(torch.tensor([list(one.ids)]), torch.ones(1, one.cost)).logits for one in TEXTS])
    for budget in (4, 14, 4096):
        torch.testing.assert_close(logits(model, OBJECTIVE, TEXTS, CPU, budget), wanted, rtol=1e-4, atol=1e-5)
    assert not logits(model, OBJECTIVE, TEXTS, CPU).requires_grad

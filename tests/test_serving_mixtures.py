from __future__ import annotations

import pytest
import torch

from peft_nb import Run, combine
from peft_nb.errors import MethodError
from peft_nb.serving.mixtures import MOST, Mixtures

IDS = torch.tensor([[1, 60, 7, 100, 9, 300, 12, 2]])


def test_a_mixture_is_what_combine_makes_and_is_made_once(kinds: dict[str, Run]) -> None:
    mixtures = Mixtures(kinds["fruit"].tokenizer)

    def get(fruit: float) -> object:
        weights = {"tool": round(1 - fruit, 1), "fruit": fruit}
        return mixtures.get(weights, lambda name: kinds[name].adapter_dir, lambda name: kinds[name].model)

    model = get(0.3)
    assert get(0.3) is model
    wanted = combine({kinds["fruit"]: 0.3, kinds["tool"]: 0.7}).model
    with torch.inference_mode():
        found = model(input_ids=IDS).logits  # type: ignore[operator]
        torch.testing.assert_close(found, wanted(input_ids=IDS).logits, atol=1e-5, rtol=1e-5)
    for tenths in range(1, 10):
        get(tenths / 10)
    assert len(mixtures) == MOST
    assert get(0.9) is get(0.9)
    mixtures.clear()
    assert len(mixtures) == 0


def test_what_cannot_be_combined_is_refused_with_the_reason(desk: dict[str, Run]) -> None:
    runs = {"tickets": desk["tickets@v1"], "dora": desk["manners@v2"]}
    mixtures = Mixtures(runs["tickets"].tokenizer)
    with pytest.raises(MethodError, match="cannot combine dora"):
        mixtures.get({"tickets": 0.5, "dora": 0.5}, lambda name: runs[name].adapter_dir, lambda name: runs[name].model)
    assert len(mixtures) == 0

"""What preferences are compared with: asked of objectives that have it, computed for what a run will see."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from peft_nb.events import Preparing
from peft_nb.runs import reference
from peft_nb.runs.run import begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from peft_nb.training.objectives import Padded
from peft_nb.training.preference import Pairs


def test_only_what_compares_needs_one() -> None:
    assert not reference.needed(Padded(0))
    assert not reference.needed(Pairs(Padded(0), 1.0, None, lambda answers: answers.chosen))
    assert reference.needed(Pairs(Padded(0), 1.0, {}, lambda answers: answers.chosen))


def test_only_rows_that_are_seen_are_computed(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], store: Store
) -> None:
    pairs: list[Any] = [
        {"prompt": row["question"], "chosen": row["answer"], "rejected": row["answer"][::-1]} for row in rows
    ]
    heard: list[Any] = []
    how: dict[str, Any] = {"data": pairs, "eval_data": pairs[:2], "store": store, "listeners": [heard.append]}
    run = begin(spec(max_steps=1, eval_steps=None), **how).wait()
    found = json.loads((run.folder / reference.FILE).read_text(encoding="utf-8"))
    assert len(found) == 5 + 2
    assert all(len(pair) == 2 and max(pair) < 0 for pair in found)
    assert run.metrics["base_eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert run.metrics["base_eval_chosen_logps"] == pytest.approx((found[-2][0] + found[-1][0]) / 2)
    evaluating = [event.what for event in heard if isinstance(event, Preparing) and "evaluating the base" in event.what]
    assert evaluating == []  # what is compared with is where the training begins
    run = begin(spec(max_steps=1, eval_steps=None, method="prefix"), **how).wait()
    assert run.metrics["base_eval_loss"] != pytest.approx(math.log(2), abs=1e-6)

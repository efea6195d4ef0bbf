"""What preferences are compared with: asked of objectives that have it, computed for what a run will see."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

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
    run = begin(spec(max_steps=1, eval_steps=None), data=pairs, eval_data=pairs[:2], store=store).wait()
    found = json.loads((run.folder / reference.FILE).read_text(encoding="utf-8"))
    assert len(found) == 5 + 2
    assert all(len(pair) == 2 and max(pair) < 0 for pair in found)

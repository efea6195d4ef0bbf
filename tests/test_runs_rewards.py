"""What a run keeps of its rows for its rewards, and how it finds them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peft_nb.data import table
from peft_nb.errors import RunError
from peft_nb.runs import rewards
from peft_nb.runs.context import Inputs
from peft_nb.spec import RunSpec
from peft_nb.tasks import TASKS


def test_all_that_rewards_are_given_is_kept_beside_the_run(tmp_path: Path) -> None:
    rows = [{"prompt": "Who?", "size": 3}, {"prompt": "", "size": 4}]
    spec = RunSpec(data="rows", eval_data="others", task="grpo", reward="length:3")
    others = [{"question": "Where?", "answer": "Here.", "when": "today"}]
    rewards.keep(tmp_path, table.read(spec, rows, others))
    kept = [json.loads(line) for line in (tmp_path / rewards.FILE).read_text().splitlines()]
    assert kept == [
        {"row": 0, "part": 0, "prompt": "Who?", "columns": {"prompt": "Who?", "size": 3}},
        {"row": 0, "part": 1, "prompt": "Where?", "columns": {"reference": "Here.", **others[0]}},
    ]


def test_only_a_task_that_learns_by_rewards_looks_for_them() -> None:
    assert [name for name, task in TASKS.items() if task.written(RunSpec(data="x"))] == ["grpo"]
    assert rewards.of(RunSpec(data="x"), Inputs()) is None
    with pytest.raises(RunError, match="pass it again"):
        rewards.of(RunSpec(data="x", task="grpo", reward="(in memory)"), Inputs())

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from peft_nb.adapters.read_back import read_back, table
from peft_nb.evaluation.agreement import Agreement
from peft_nb.runs.run import Run
from peft_nb.tasks import TASKS


def compared(one: Any, other: Any, run: Run) -> Agreement:
    return TASKS[run.spec.task].agreement(one, other, run.adapter._to_compare(None)[0], run.facts.task)


def test_what_was_saved_is_as_the_run_and_the_base_is_not(finished: Run, tmp_path: Path) -> None:
    folder = finished.save(tmp_path / "adapter")
    weights = {name: one.clone() for name, one in finished.model.state_dict().items()}
    candidate, other = read_back(finished.model, folder, folder)
    for one in (other, finished.model):
        near = compared(candidate, one, finished)
        with candidate.disable_adapter():
            far = compared(candidate, one, finished)
        assert near.kl < 1e-6 < 1e-3 < far.kl
    assert list(table({"one": near, "base": far})["candidate"]) == ["one", "base"]
    for parameter in candidate.parameters():
        parameter.data.zero_()
    assert all(torch.equal(one, weights[name]) for name, one in finished.model.state_dict().items())


def test_what_16_bits_round_is_not_compared(learn: Callable[..., Run], tmp_path: Path) -> None:
    run = learn("lora", dtype="bfloat16", max_steps=1)
    folder = run.save(tmp_path / "adapter")
    one, other = read_back(run.model, folder, folder)
    assert {parameter.dtype for parameter in one.parameters()} == {torch.float32}
    assert run.model.get_base_model().get_input_embeddings().weight.dtype == torch.bfloat16
    assert compared(one, other, run).kl < 1e-6

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from peft_nb.adapters.exporters import Live
from peft_nb.adapters.read_back import compared, read_back, table
from peft_nb.runs.run import Run


def test_what_was_saved_is_as_the_run_and_the_base_is_not(finished: Run, tmp_path: Path) -> None:
    folder = finished.save(tmp_path / "adapter")
    weights = {name: one.clone() for name, one in finished.model.state_dict().items()}
    examples = finished.adapter._to_compare(None)[0]
    live = Live(finished.model, finished.tokenizer, finished.facts, examples, "rows")
    candidate, other = read_back(live, folder, folder)
    for one in (other, finished.model):
        near = compared(candidate, one, live, finished.spec)
        with candidate.disable_adapter():
            far = compared(candidate, one, live, finished.spec)
        assert near.kl < 1e-6 < 1e-3 < far.kl
    assert list(table({"one": near, "base": far})["candidate"]) == ["one", "base"]
    for parameter in candidate.parameters():
        parameter.data.zero_()
    assert all(torch.equal(one, weights[name]) for name, one in finished.model.state_dict().items())


def test_what_16_bits_round_is_not_compared(learn: Callable[..., Run], tmp_path: Path) -> None:
    run = learn("lora", dtype="bfloat16", max_steps=1)
    folder = run.save(tmp_path / "adapter")
    examples = run.adapter._to_compare(None)[0]
    live = Live(run.model, run.tokenizer, run.facts, examples, "rows")
    one, other = read_back(live, folder, folder)
    assert {parameter.dtype for parameter in one.parameters()} == {torch.float32}
    assert run.model.get_base_model().get_input_embeddings().weight.dtype == torch.bfloat16
    assert compared(one, other, live, run.spec).kl < 1e-6

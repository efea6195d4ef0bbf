from __future__ import annotations

from pathlib import Path

import torch

from peft_nb.adapters.exporters.vllm_proof import asked, equal, proof
from peft_nb.runs.run import Run

PROMPTS = [[1, 60, 7, 100], [1, 33, 45]]


def greedy(run: Run, ids: list[int], tokens: int = 6) -> list[int]:
    found = run.model.generate(
        torch.tensor([ids]), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, eos_token_id=None
    )
    return [int(token) for token in found[0, len(ids) :]]


def test_the_share_is_that_of_the_tokens_which_the_run_would_choose(finished: Run) -> None:
    answers = [greedy(finished, ids) for ids in PROMPTS]
    assert equal(finished.model, PROMPTS, answers) == 1
    changed = [answers[0], [*answers[1][:-1], answers[1][-1] + 1]]
    assert equal(finished.model, PROMPTS, changed) == 11 / 12


def test_without_vllm_nothing_is_run_and_nothing_is_refused(finished: Run, tmp_path: Path) -> None:
    assert proof("base", tmp_path, 8, finished.model, PROMPTS) == "not run in vLLM"
    assert asked({}) == "vLLM did not run it: ModuleNotFoundError: No module named 'vllm'"

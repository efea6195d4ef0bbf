"""A written adapter in vLLM itself, where that and a GPU are there: its greedy answers against those of the run.

Not tested with vLLM, for want of a GPU: whatever keeps it from answering is told, and refuses nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel

TOKENS = 12  # of each answer
MEMORY = 0.4  # of the GPU's, which holds the run's model too


def proof(base: str, folder: Path, rank: int, model: PeftModel, prompts: Sequence[list[int]]) -> str:
    """Say how vLLM's answers are to a run's, in some words.

    Parameters
    ----------
    base : str
        What vLLM finds the base by.
    folder : Path
        The written adapter.
    rank : int
        The largest that it is told to expect.
    model : peft.PeftModel
        The adapter as the run has it.
    prompts : sequence of list of int
        Token ids to go on from.

    Returns
    -------
    str
        Without vLLM or a GPU that it was not run.
    """
    import torch

    if not (find_spec("vllm") and torch.cuda.is_available()):
        return "not run in vLLM"
    told = {"base": base, "folder": str(folder), "rank": rank, "prompts": list(prompts)}
    answers = asked(told)
    if isinstance(answers, str):
        return answers
    return f"run by vLLM, {equal(model, prompts, answers):.1%} of its greedy tokens are the run's"


def asked(told: dict[str, Any]) -> list[list[int]] | str:
    """Ask vLLM in a process of its own; the answers, or what kept it from answering."""
    command = [sys.executable, "-m", "peft_nb.adapters.exporters.vllm_proof"]
    done = subprocess.run(command, input=json.dumps(told), capture_output=True, text=True, check=False)
    if done.returncode:
        return f"vLLM did not run it: {next(reversed(done.stderr.strip().splitlines()), 'it ended without a word')}"
    answers: list[list[int]] = json.loads(done.stdout.strip().splitlines()[-1])
    return answers


def equal(model: PeftModel, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> float:
    """The share of the tokens of answers that are a model's own choice there."""
    from peft_nb.evaluation.agreement import logits

    same = [
        int(chosen) == token
        for ids, answer in zip(prompts, answers, strict=True)
        for chosen, token in zip(logits(model, [*ids, *answer])[len(ids) - 1 : -1].argmax(-1), answer, strict=True)
    ]
    return sum(same) / max(1, len(same))


def main() -> None:
    """Be vLLM: told on standard input what to load and ask, it says the answers on standard output."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    told = json.loads(sys.stdin.read())
    model = LLM(
        told["base"], enable_lora=True, max_lora_rank=told["rank"], max_model_len=512, gpu_memory_utilization=MEMORY
    )
    found = model.generate(
        [{"prompt_token_ids": ids} for ids in told["prompts"]],
        SamplingParams(temperature=0, max_tokens=TOKENS),
        lora_request=LoRARequest("run", 1, told["folder"]),
    )
    print(json.dumps([list(one.outputs[0].token_ids) for one in found]))


if __name__ == "__main__":
    main()

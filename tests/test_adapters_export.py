"""Runs as scripts that need PyTorch, transformers and PEFT alone: the same losses, in a process of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peft_nb.run import begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests.conftest import Python

Spec = Callable[..., RunSpec]


def retrained(script: Path, python: Python) -> tuple[list[float], list[float]]:
    """Run a script; the losses of its steps and on the held-out rows."""
    process = python(script)
    lines = [json.loads(line) for line in process.communicate()[0].splitlines()]
    assert process.returncode == 0
    return [line["loss"] for line in lines if "loss" in line], [
        line["eval_loss"] for line in lines if "eval_loss" in line
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"method": "rslora", "gradient_accumulation_steps": 2, "batch_size": 3, "weight_decay": 0.1, "warmup_steps": 2},
        {"method": "dora", "lr_scheduler_type": "cosine", "system": "Be brief.", "loss_on": "all"},
        {"method": "prompt"},
    ],
    ids=lambda fields: fields.get("method", "lora"),
)
def test_the_script_has_the_losses_of_the_run(
    spec: Spec, rows: list[dict[str, str]], store: Store, tmp_path: Path, python: Python, fields: dict[str, Any]
) -> None:
    run = begin(spec(**fields), data=rows, store=store).wait()
    script = run.export(tmp_path / "out")
    losses, eval_losses = retrained(script, python)
    history = run.history
    assert losses == pytest.approx(history.loss[history.loss.notna()].tolist(), abs=1e-3)
    assert eval_losses == pytest.approx([run.metrics["base_eval_loss"], run.metrics["eval_loss"]], abs=1e-3)

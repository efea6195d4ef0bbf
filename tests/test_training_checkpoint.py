"""Optimizer, schedule and random state come back from disk exactly, without pickle."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from transformers import get_cosine_schedule_with_warmup

from peft_nb.training import checkpoint


def _step(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer, schedule: object) -> None:
    parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    schedule.step()  # type: ignore[attr-defined]


def test_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(7, 5))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.01, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, 2, 10)
    for _ in range(3):
        _step(parameter, optimizer, schedule)
    checkpoint.save_optimizer(optimizer.state_dict(), tmp_path)
    checkpoint.save_schedule(schedule.state_dict(), tmp_path)
    checkpoint.save_random(tmp_path, rank=0)

    twin = torch.nn.Parameter(parameter.detach().clone())
    other = torch.optim.AdamW([twin], lr=0.1, weight_decay=0.01, fused=True)
    resumed = get_cosine_schedule_with_warmup(other, 2, 10)
    for _ in range(3):
        _step(parameter, optimizer, schedule)
    other.load_state_dict(checkpoint.load_optimizer(tmp_path))
    resumed.load_state_dict(checkpoint.load_schedule(tmp_path))
    checkpoint.load_random(tmp_path, rank=0)
    for _ in range(3):
        _step(twin, other, resumed)
    assert torch.equal(parameter, twin)
    assert schedule.get_last_lr() == resumed.get_last_lr()


def test_every_random_generator_is_restored(tmp_path: Path) -> None:
    checkpoint.save_random(tmp_path, rank=1)
    first = random.random(), np.random.rand(), torch.rand(1).item()
    checkpoint.load_random(tmp_path, rank=1)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == first


def test_the_newest_checkpoint_is_found_by_its_number(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / ".staging-200").mkdir()
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoint-100"
    checkpoint.keep_newest(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-100"]
    assert checkpoint.latest(tmp_path / "nowhere") is None

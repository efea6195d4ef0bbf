"""Optimizer, schedule and random state come back from disk exactly, without pickle."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import get_cosine_schedule_with_warmup

from peft_nb.training import checkpoint
from peft_nb.training.draws import OwnDraws


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
    before = torch.get_rng_state()

    twin = torch.nn.Parameter(parameter.detach().clone())
    other = torch.optim.AdamW([twin], lr=0.1, weight_decay=0.01, fused=True)
    resumed = get_cosine_schedule_with_warmup(other, 2, 10)
    for _ in range(3):
        _step(parameter, optimizer, schedule)
    other.load_state_dict(checkpoint.load_optimizer(tmp_path))
    resumed.load_state_dict(checkpoint.load_schedule(tmp_path))
    torch.set_rng_state(before)
    for _ in range(3):
        _step(twin, other, resumed)
    assert torch.equal(parameter, twin)
    assert schedule.get_last_lr() == resumed.get_last_lr()


def test_tensors_that_parameters_share_and_nested_ones_come_back(tmp_path: Path) -> None:
    shared, own = torch.arange(4.0), torch.ones(2)
    state = {index: {"step": 3, "wrapped": {"table": shared, "one": own * index}} for index in (0, 1)}
    checkpoint.save_optimizer({"state": state, "param_groups": []}, tmp_path)
    found = checkpoint.load_optimizer(tmp_path)["state"]
    for index in (0, 1):
        assert found[index]["step"] == 3
        assert torch.equal(found[index]["table"], shared)
        assert torch.equal(found[index]["one"], own * index)


def test_where_random_generators_stand_is_restored(tmp_path: Path) -> None:
    with OwnDraws(5) as draws:
        torch.rand(3)
        checkpoint.save_random(draws.state(), tmp_path, rank=1)
        first = torch.rand(1).item()
    again = OwnDraws(6)
    again.restore(checkpoint.load_random(tmp_path, rank=1))
    with again:
        assert torch.rand(1).item() == first
    assert checkpoint.load_random(tmp_path, rank=0) == {}


def test_what_earlier_releases_kept_beside_is_not_needed(tmp_path: Path) -> None:
    state = torch.Generator().manual_seed(4).get_state()
    save_file({"torch": state, "numpy": torch.ones(3), "python": torch.ones(3)}, tmp_path / "0-random.safetensors")
    (name, found) = checkpoint.load_random(tmp_path, rank=0).popitem()
    assert (name, found.tolist()) == ("cpu", state.tolist())


def test_the_newest_checkpoint_is_found_by_its_number(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / ".staging-200").mkdir()
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoint-100"
    checkpoint.keep_newest(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-100"]
    assert checkpoint.latest(tmp_path / "nowhere") is None

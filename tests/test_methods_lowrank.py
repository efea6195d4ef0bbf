"""Ranks that move."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from peft_nb.errors import MethodError
from peft_nb.methods.lowrank import MovingRanks, budget
from peft_nb.runs.run import Run
from peft_nb.spec import RunSpec
from tests import tiny
from tests.every_method import LINEAR


@pytest.mark.parametrize(
    ("r", "options", "first"), [(8, {}, 12), (1, {}, 2), (8, {"init_r": 9}, 9)], ids=["half", "one", "given"]
)
def test_the_budget_begins_with_half_as_many_again(r: int, options: dict[str, int], first: int) -> None:
    spec = RunSpec(data="none", method="adalora", r=r, method_options=options)
    assert budget(spec, None, 30) == {"init_r": first, "total_step": 30, "tinit": 3, "tfinal": 10}


def test_a_budget_with_no_rank_to_take_away_is_refused() -> None:
    with pytest.raises(MethodError, match="init_r 8 leaves no rank to take away; take more than r, 8"):
        budget(RunSpec(data="none", method="adalora", r=8, method_options={"init_r": 8}), None, 30)


def test_what_is_remembered_of_the_ranks_is_set_again() -> None:
    import torch

    from peft_nb.methods import attach

    model = attach(tiny.base("llama"), RunSpec(data="none", method="adalora", r=2), "base", steps=30)
    hooks, again = MovingRanks(), MovingRanks()
    allocator = model.base_model.rankallocator
    for step in (4, 5):
        model(input_ids=torch.arange(3, 11)[None]).logits.sum().backward()
        hooks.stepped(model, step)
    hooks.pattern = {"layer": [True, False]}
    state = {name: tensor.clone() for name, tensor in hooks.state(model).items()}
    assert len(state) > 3 * 14
    for mean in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
        getattr(allocator, mean).clear()
    again.restore(model, state)
    assert again.pattern == hooks.pattern
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state(model).items())


@pytest.mark.parametrize(("steps", "settled"), [(1, False), (2, True)])
def test_few_steps_train_and_two_settle_the_ranks(learn: Callable[..., Run], steps: int, settled: bool) -> None:
    run = learn("adalora", r=2, max_steps=steps)
    assert run.metrics["steps"] == steps
    assert bool(run.model.peft_config["default"].rank_pattern) == settled


@pytest.mark.exhaustive
def test_adalora_moves_ranks_and_begins_with_half_as_many_again(learn: Callable[..., Run]) -> None:
    run = learn("adalora", r=2, max_steps=10)
    config = run.model.peft_config["default"]
    assert (config.init_r, config.target_r) == (3, 2)
    kept = [sum(ranks) for ranks in config.rank_pattern.values()]
    assert sum(kept) == 2 * len(LINEAR)
    assert len({*kept}) > 1

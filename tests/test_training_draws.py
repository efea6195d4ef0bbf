"""What is drawn in a run's own context is what a seeded generator gives, and the process's generators never move."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.checkpoint import checkpoint

from peft_nb.training.draws import OwnDraws

DRAWING: dict[str, Callable[[], torch.Tensor]] = {
    "dropout": lambda: F.dropout(torch.ones(50), 0.4),
    "attention": lambda: F.scaled_dot_product_attention(*[torch.ones(1, 2, 5, 4)] * 3, dropout_p=0.5),
    "rand": lambda: torch.rand(3),
    "randn": lambda: torch.randn(3),
    "randint": lambda: torch.randint(9, (3,)),
    "randint from": lambda: torch.randint(3, 9, (3,)),
    "randperm": lambda: torch.randperm(9),
    "bernoulli": lambda: torch.bernoulli(torch.full((9,), 0.5)),
    "multinomial": lambda: torch.multinomial(torch.ones(9), 4),
    "rand_like": lambda: torch.rand_like(torch.ones(3)),
    "init": lambda: torch.nn.init.kaiming_uniform_(torch.empty(3, 4)),
    "in place": lambda: torch.empty(3).exponential_(),
    "svd": lambda: torch.svd_lowrank(torch.ones(6, 5), 2)[0].abs(),
}


@pytest.mark.parametrize("draw", DRAWING.values(), ids=DRAWING)
def test_it_draws_what_a_seeded_process_draws_and_leaves_the_process_alone(draw: Callable[[], torch.Tensor]) -> None:
    torch.manual_seed(3)
    wanted = [draw(), draw()]
    before = torch.get_rng_state()
    with OwnDraws(3) as own:
        found = [draw(), draw()]
    assert torch.equal(torch.get_rng_state(), before)
    assert own.drew
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_it_goes_on_where_it_was_and_where_it_is_put() -> None:
    with OwnDraws(3) as own:
        torch.rand(2)
    state = own.state()
    with own:
        first = torch.rand(2)
    assert torch.rand(2).tolist() != first.tolist()
    other = OwnDraws(9)
    other.restore(state)
    with other:
        assert torch.equal(torch.rand(2), first)


def test_what_is_given_a_generator_or_draws_nothing_is_left_alone() -> None:
    mine = torch.Generator().manual_seed(1)
    wanted = torch.rand(2, generator=torch.Generator().manual_seed(1))
    with OwnDraws(3) as own:
        assert torch.equal(torch.rand(2, generator=mine), wanted)
        torch.ones(2) + F.dropout(torch.ones(2), 0.4, training=False)
        torch.empty(2, device="meta").normal_()
    assert not own.drew


def test_what_a_checkpoint_computes_again_drops_out_the_same() -> None:
    def learn(again: bool) -> tuple[torch.Tensor | None, torch.Tensor]:
        weight, own = torch.ones(64, requires_grad=True), OwnDraws(4)

        def layer(given: torch.Tensor) -> torch.Tensor:
            return F.dropout(given * weight, 0.5).square()

        def part(given: torch.Tensor) -> torch.Tensor:
            options = {"use_reentrant": False, "context_fn": own.checkpointed}
            return checkpoint(layer, given, **options) if again else layer(given)

        with own:
            part(part(torch.ones(64))).sum().backward()
            return weight.grad, torch.rand(3)

    for one, other in zip(learn(True), learn(False), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_what_draws_nothing_is_computed_again_without_watching() -> None:
    own, watched = OwnDraws(4), list[bool]()

    def layer(given: torch.Tensor) -> torch.Tensor:
        watched.append(isinstance(_get_current_dispatch_mode(), OwnDraws))
        return given.square()

    given = torch.ones(3, requires_grad=True)
    checkpoint(layer, given, use_reentrant=False, context_fn=own.checkpointed).sum().backward()
    assert watched == [False, False]


def test_what_seeds_itself_gets_its_own_draws_and_disturbs_nobody() -> None:
    def projected() -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            return torch.rand(3)

    with OwnDraws(3) as calm:
        wanted = [torch.rand(2), torch.rand(2)]
    expected, before = projected(), torch.get_rng_state()
    own, elsewhere = OwnDraws(3), list[torch.Tensor]()
    with own.heeding_seeds():
        found = [torch.rand(2)]
        assert torch.equal(projected(), expected)
        other = threading.Thread(target=lambda: elsewhere.append(projected()))
        other.start()
        other.join()
        found.append(torch.rand(2))
        torch.manual_seed(7)
        assert torch.equal(torch.rand(3), expected)
    assert calm.drew
    assert [one.tolist() for one in found] == [one.tolist() for one in wanted]
    assert torch.equal(elsewhere[0], expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_else_random_is_touched() -> None:
    states = random.getstate(), numpy.random.get_state()[1].tolist()
    with OwnDraws(3):
        torch.rand(2)
    assert states == (random.getstate(), numpy.random.get_state()[1].tolist())

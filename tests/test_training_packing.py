"""The plan of a run, and how a step is cut and laid out."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_nb.training import packing
from tests import tiny


@given(st.integers(1, 60), st.integers(1, 16), st.integers(0, 5), st.integers(1, 3))
def test_an_epoch_visits_every_row_once(rows: int, batch: int, seed: int, epochs: int) -> None:
    planned = packing.plan(rows, batch, seed, epochs)
    assert Counter(row for step in planned for row in step) == dict.fromkeys(range(rows), epochs)
    assert all(0 < len(step) <= batch for step in planned)
    assert planned == packing.plan(rows, batch, seed, epochs)


def test_epochs_are_shuffled_anew_and_seeds_differ() -> None:
    planned = packing.plan(40, 40, 0, 2)
    assert planned[0] != planned[1]
    assert planned[0] != packing.plan(40, 40, 1, 1)[0]


def test_max_steps_wins_over_epochs() -> None:
    assert len(packing.plan(10, 4, 0, 1, max_steps=7)) == 7
    assert len(packing.plan(10, 4, 0, 0.5)) == 2


@given(st.integers(1, 30), st.integers(1, 5))
def test_processes_share_a_step_without_overlap(size: int, processes: int) -> None:
    step = list(range(size))
    shares = [packing.share_of(step, rank, processes) for rank in range(processes)]
    assert sorted(row for share in shares for row in share) == step


@given(st.integers(1, 30), st.integers(5, 80), st.booleans(), st.integers(0, 9))
def test_micro_batches_stay_within_the_budget(count: int, budget: int, padded: bool, seed: int) -> None:
    batch = tiny.examples(count, seed=seed)
    cut = packing.micro_batches(batch, budget, padded)
    assert sorted(map(id, batch)) == sorted(id(one) for micro in cut for one in micro)
    for micro in cut:
        lengths = [len(one.ids) for one in micro]
        cost = len(micro) * max(lengths) if padded else sum(lengths)
        assert cost <= budget or len(micro) == 1


@given(st.integers(2, 30), st.integers(25, 80))
def test_a_shared_prefix_counts_once_in_the_budget(count: int, budget: int) -> None:
    batch = tiny.examples(count, prefix=20)
    cut = packing.micro_batches(batch, budget, padded=False, share_prefix=True)
    laid_out = [packing.pack(micro, share_prefix=True).input_ids.shape[1] for micro in cut]
    assert all(tokens <= budget or len(micro) == 1 for tokens, micro in zip(laid_out, cut, strict=True))
    assert len(cut) <= len(packing.micro_batches(batch, budget, padded=False))


def test_a_shared_prefix_is_laid_out_once() -> None:
    batch = tiny.examples(4, prefix=10)
    alone, shared = packing.pack(batch, share_prefix=False), packing.pack(batch, share_prefix=True)
    assert shared.input_ids.shape[1] == alone.input_ids.shape[1] - 3 * shared.segments[0]
    assert shared.segments[0] >= 10
    assert sorted(shared.targets.tolist()) == sorted(alone.targets.tolist())


@pytest.mark.parametrize("share_prefix", [False, True])
def test_the_first_token_is_never_a_target(share_prefix: bool) -> None:
    batch = [tiny.Tokens(one.ids, [True] * len(one.ids)) for one in tiny.examples(3)]
    assert len(packing.pack(batch, share_prefix).targets) == sum(len(one.ids) - 1 for one in batch)
    assert int((packing.pad(batch, 0)["labels"] != packing.IGNORE).sum()) == sum(len(one.ids) - 1 for one in batch)

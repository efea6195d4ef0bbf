"""What rows share is computed once, and no loss or gradient notices."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peft_nb.training import objectives, packing, prefix_tree
from peft_nb.training.objectives import Padded, PaddingFree
from peft_nb.training.prefix_tree import MIN_PREFIX
from tests import tiny

CPU = torch.device("cpu")
MODELS = {family: tiny.with_lora(tiny.base(family)) for family in tiny.FAMILIES}


@st.composite
def trees(draw: st.DrawFn) -> list[tiny.Tokens]:
    """Rows that share prefixes of prefixes: deep or not, some equal, some that end where others go on."""
    chance = random.Random(draw(st.integers(0, 10_000)))

    def text(length: int) -> list[int]:
        return [chance.randrange(3, tiny.VOCABULARY) for _ in range(length)]

    paths = [text(draw(st.sampled_from([1, 4, 12])))]
    for _ in range(draw(st.integers(0, 4))):
        stem = paths[draw(st.integers(0, len(paths) - 1))]
        paths.append(stem + text(draw(st.sampled_from([1, 3, MIN_PREFIX, 15]))))
    rows = []
    for _ in range(draw(st.integers(1, 7))):
        ids = paths[draw(st.integers(0, len(paths) - 1))] + text(draw(st.sampled_from([0, 0, 1, 5])))
        first = draw(st.integers(0, len(ids)))
        rows.append(tiny.Tokens(ids, [place >= first for place in range(len(ids))]))
    return rows


@given(trees())
def test_every_row_is_the_path_to_its_end(rows: list[tiny.Tokens]) -> None:
    nodes, ends = prefix_tree.tree(rows)
    for number, (row, start, stop, parent) in enumerate(nodes):
        assert parent < number
        assert start == (nodes[parent].stop if parent >= 0 else 0) < stop <= len(rows[row].ids)
    for row, end in zip(rows, ends, strict=True):
        path, ids = end, list[int]()
        while path >= 0:
            source, start, stop, path = nodes[path]
            ids[:0] = rows[source].ids[start:stop]
        assert ids == row.ids
    assert prefix_tree.tokens(rows) <= sum(len(one.ids) for one in rows)


@given(trees())
def test_a_node_is_shared_only_where_that_pays(rows: list[tiny.Tokens]) -> None:
    nodes, _ = prefix_tree.tree(rows)
    shared = {node.parent for node in nodes} - {-1}
    assert all(nodes[one].stop - nodes[one].start >= MIN_PREFIX for one in shared)


@given(trees(), st.integers(1, 90))
def test_micro_batches_hold_every_row_once_and_count_each_node_once(rows: list[tiny.Tokens], budget: int) -> None:
    cut = prefix_tree.arrange(rows, budget)
    assert sorted(map(id, rows)) == sorted(id(one) for micro in cut for one in micro)
    for micro in cut:
        laid_out = packing.pack(micro, share_prefix=True).input_ids.shape[1]
        assert laid_out == prefix_tree.tokens(micro)
        assert 0 < laid_out <= budget or len(micro) == 1


def test_what_shares_a_prefix_lies_together() -> None:
    groups = [tiny.examples(4, prefix=30, seed=seed) for seed in range(3)]
    rows = [one for each in zip(*groups, strict=True) for one in each]
    cut = prefix_tree.arrange(rows, 30 + 4 * 20)
    assert sorted(sorted(map(id, micro)) for micro in cut) == sorted(sorted(map(id, group)) for group in groups)


def test_rows_that_share_nothing_are_cut_as_without_a_tree() -> None:
    rows = tiny.examples(30)
    alone = packing.micro_batches(rows, 60, padded=False)
    lengths = [[len(one.ids) for one in micro] for micro in prefix_tree.arrange(rows, 60)]
    assert lengths == [[len(one.ids) for one in micro] for micro in alone]


def test_rows_of_which_each_goes_on_where_the_last_ended_are_one_chain() -> None:
    ids = [3 + place % 90 for place in range(3_000)]
    rows = [tiny.Tokens(ids[:length], [False] * length) for length in range(10, 3_000, 10)]
    assert prefix_tree.tokens(rows) == 2_990
    assert sum(map(len, prefix_tree.arrange(rows, 512))) == len(rows)


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=trees())
def test_losses_and_gradients_are_those_of_padded_rows(family: str, rows: list[tiny.Tokens]) -> None:
    if not Padded(0).targets(rows):
        return
    assert max(objectives.disagreement(MODELS[family], PaddingFree(True), Padded(0), rows, CPU)) < 1e-4

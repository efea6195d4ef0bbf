"""What a path is tried on comes from the run, and holds every feature that the run will use."""

from __future__ import annotations

from typing import Any
from unittest.mock import ANY

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertGenerationConfig,
    DogeConfig,
    Phi3Config,
    PhimoeConfig,
    PreTrainedConfig,
    Qwen2MoeConfig,
)

from peft_nb.training import attention, objectives, packing, prefix_tree, selfcheck
from peft_nb.training.objectives import Objective, Padded, PaddingFree
from tests import tiny

CPU = torch.device("cpu")
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


def adapted(config: PreTrainedConfig) -> Any:
    """A random model of a config with LoRA."""
    torch.manual_seed(0)
    config.initializer_range = 0.2
    targets = ["q_proj", "o_proj"] if config.model_type == "phimoe" else "all-linear"  # its router returns a tuple
    return tiny.with_lora(AutoModelForCausalLM.from_config(config).requires_grad_(False).eval(), targets=targets)


def chosen(model: Any, examples: list[tiny.Tokens]) -> Objective:
    return objectives.choose(model, examples, 0, CPU, fast=True, supported=True)


def of(length: int) -> tiny.Tokens:
    return tiny.Tokens([3 + 7 * place % 90 for place in range(length)], [place > 1 for place in range(length)])


@pytest.mark.parametrize("lengths", [[2], [5], [30], [300, 4], [4, 300]])
@pytest.mark.parametrize("share", [False, True])
def test_trials_are_several_segments_of_the_runs_own_tokens(lengths: list[int], share: bool) -> None:
    run = [of(length) for length in lengths]
    found, narrow_below = selfcheck.trial(run, share)
    assert narrow_below == max(lengths)
    assert len(found) == 3 + share
    assert {token for one in found for token in one.ids} <= {token for one in run for token in one.ids}
    assert max(one.cost for one in found) == min(max(lengths), selfcheck.LONGEST)
    assert all(packing.supervised_targets(one) for one in found if one.cost > 1)
    nodes, _ = prefix_tree.tree(found)
    depths: list[int] = []
    for node in nodes:
        depths.append(depths[node.parent] + 1 if node.parent >= 0 else 0)
    assert sorted(depths) == ([0, 0, 1, 1, 2, 2] if share and max(lengths) == 300 else ANY)


def test_a_window_is_narrowed_below_a_segment_only_where_the_run_exceeds_it() -> None:
    model = tiny.base("mistral", sliding_window=100)
    for longest, narrow in ((100, 100), (101, 8)):
        with selfcheck.narrowed(model, longest):
            assert model.config.sliding_window == narrow
        assert model.config.sliding_window == 100


def test_a_window_that_is_ignored_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.with_lora(tiny.base("mistral", sliding_window=60))
    assert isinstance(chosen(model, [of(70)]), PaddingFree)
    monkeypatch.setitem(attention.AttentionMaskInterface._global_mapping, attention.NAME, lambda **options: None)
    assert "differed on a few examples" in str(chosen(model, [of(70)]))
    assert isinstance(chosen(model, [of(60)]), PaddingFree)


def test_a_single_example_is_packed_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = attention.segment_attention
    whole = lambda *a, segments, parents, **options: inner(*a, segments=[sum(segments)], **options)  # noqa: E731
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.NAME, whole)
    assert "differed on a few examples" in str(chosen(tiny.with_lora(tiny.base("llama")), [of(9)]))


def test_where_prefixes_alone_are_wrong_they_are_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = attention.segment_attention
    apart = lambda *a, parents, **options: inner(*a, **options)  # noqa: E731
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.NAME, apart)
    assert chosen(tiny.with_lora(tiny.base("llama")), [of(30)]) == PaddingFree(share_prefix=False)


@pytest.mark.parametrize(
    "config",
    [
        Qwen2MoeConfig(
            **tiny.GROUPED,
            **EXPERTS,
            shared_expert_intermediate_size=24,
            use_sliding_window=True,
            sliding_window=6,
            layer_types=["full_attention", "sliding_attention"],
        ),
        PhimoeConfig(**tiny.GROUPED, num_local_experts=4, num_experts_per_tok=2, sliding_window=6),
    ],
    ids=lambda config: config.model_type,
)
def test_windows_that_reach_the_layers_by_the_mask_alone_are_kept(config: PreTrainedConfig) -> None:
    model = adapted(config)
    assert isinstance(chosen(model, [of(30)]), PaddingFree)
    for prefix in (0, 12):
        batch = tiny.examples(prefix=prefix)
        assert max(objectives.disagreement(model, PaddingFree(True), Padded(0), batch, CPU)) < 1e-4


def test_a_mask_that_holds_more_than_segments_is_refused() -> None:
    found = chosen(adapted(DogeConfig(**tiny.GROUPED, keep_window_size=6)), [of(30)])
    assert "DogeAttention brings a mask of its own" in str(found)


def test_layers_that_look_both_ways_share_no_prefix() -> None:
    model = adapted(BertGenerationConfig(**tiny.WIDE, hidden_dropout_prob=0, attention_probs_dropout_prob=0))
    found = chosen(model, [of(30)])
    assert found == PaddingFree(share_prefix=False)
    assert max(objectives.disagreement(model, found, Padded(0), tiny.examples(prefix=12), CPU)) < 1e-4


@pytest.mark.parametrize("path", [Padded(0, short=10), PaddingFree(True, short=10)], ids=str)
def test_the_cut_does_not_choose_between_long_and_short_rotary_factors(path: Any) -> None:
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, **factors}
    reach = {"max_position_embeddings": 40, "original_max_position_embeddings": 10}
    model = adapted(Phi3Config(**tiny.GROUPED, **reach, pad_token_id=0, eos_token_id=1, rope_parameters=rope))
    assert packing.short_positions(model.config) == 10
    assert chosen(model, [of(30)]) == PaddingFree(True, short=10)
    batch = [of(length) for length in (4, 9, 10, 11, 25)]
    with path.installed(model):
        sums = [sum(path.loss(model, micro, CPU) for micro in path.cut(batch, budget)) for budget in (1, 12, 30, 999)]
        apart = path.short and [sorted({len(one.ids) > 10 for one in micro}) for micro in path.cut(batch, 999)]
    torch.testing.assert_close(sums, [sums[0]] * 4, rtol=1e-5, atol=0)
    assert apart == [[True], [False]]

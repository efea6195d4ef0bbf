"""One kernel for all segments: its masks and formulas give what goes segment by segment; the choice of the kernel."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from transformers import Gemma4TextConfig

from peft_nb.training import gpu_attention, objectives
from peft_nb.training.attention import Local, segment_attention
from peft_nb.training.gpu_attention import BLOCK, EACH, FLEX, VARLEN, Asked, choose
from tests import flex, tiny

CPU = torch.device("cpu")
HALF, SINGLE = torch.bfloat16, torch.float32


def forest(draw: random.Random, segments: int, longest: int) -> tuple[list[int], list[int]]:
    """Segments of random lengths, depth first, each continuing some segment on the path before it or none."""
    lengths = [draw.choice((1, draw.randint(1, longest))) for _ in range(segments)]
    parents, path = [], list[int]()
    for segment in range(segments):
        del path[draw.randint(0, len(path)) :]
        parents.append(path[-1] if path else -1)
        path.append(segment)
    return lengths, parents


def tensors(tokens: int, seed: int) -> list[torch.Tensor]:
    """Queries, keys and values; three query heads share a key head."""
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, heads, tokens, 8, dtype=torch.float64, generator=draw).requires_grad_() for heads in (6, 2, 2)
    ]


ASKED: dict[str, tuple[bool, Local | None, dict[str, Any]]] = {
    "causal": (True, None, {}),
    "window": (True, Local(3), {}),
    "long window": (True, Local(150), {}),
    "chunks": (True, Local(4, chunked=True), {}),
    "both ways": (False, None, {}),
    "both ways, window": (False, Local(3), {}),
    "both ways, long window": (False, Local(150), {}),
    "soft cap": (True, None, {"softcap": 0.5}),
    "sinks": (True, None, {"s_aux": torch.linspace(-1, 2, 6)}),
    "all": (True, Local(5), {"softcap": 0.5, "s_aux": torch.linspace(-1, 2, 6)}),
}


@pytest.mark.parametrize("what", ASKED)
def test_flex_attention_gives_what_goes_segment_by_segment(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_attention, "compiled_flex", lambda: flex.written_out)
    causal, local, others = ASKED[what]
    for seed in range(6):
        draw = random.Random(seed)
        lengths, parents = forest(draw, draw.randint(1, 9), 9 if seed % 2 else 3 * BLOCK // 2)
        if not causal:
            parents = [-1] * len(lengths)
        given = tensors(sum(lengths), seed), tensors(sum(lengths), seed)
        told = {"is_causal": causal, "segments": lengths, "parents": parents, **others}
        mine, wanted = (
            segment_attention(torch.nn.Module(), *one, local, kernel=kernel, **told)[0]
            for one, kernel in zip(given, (FLEX, EACH), strict=True)
        )
        exact = {"rtol": 1e-5, "atol": 1e-6} if others else {}  # those are in float32 segment by segment
        torch.testing.assert_close(mine, wanted, **exact)
        upstream = torch.randn_like(mine)
        mine.backward(upstream)
        wanted.backward(upstream)
        for one, other in zip(*given, strict=True):
            torch.testing.assert_close(one.grad, other.grad, **(exact and {"rtol": 1e-5, "atol": 1e-5}))


def test_pytorch_reads_the_block_mask_in_the_same_way() -> None:
    lengths, parents = forest(random.Random(5), 6, 200)
    pattern = tuple(lengths), tuple(parents), True, None
    query, key, value = (one.detach().float() for one in tensors(sum(lengths), 0))
    mask = gpu_attention.block_mask(pattern, CPU)
    with torch.no_grad():
        found = flex_attention(query, key, value, block_mask=mask, scale=0.3, enable_gqa=True)
    expected = flex.written_out(query, key, value, score_mod=None, block_mask=mask, scale=0.3, return_aux=None)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_blocks_in_which_nothing_is_seen_are_skipped() -> None:
    lengths = (BLOCK, 2 * BLOCK, BLOCK)
    mask = gpu_attention.block_mask((lengths, (-1, -1, -1), True, None), CPU)
    assert mask.to_dense()[0, 0].tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    assert mask.full_kv_num_blocks[0, 0].tolist() == [0, 0, 1, 0]
    shared = gpu_attention.block_mask((lengths, (-1, 0, 0), True, None), CPU)
    assert shared.to_dense()[0, 0].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]
    assert shared.full_kv_num_blocks[0, 0].tolist() == [0, 1, 2, 1]
    near = gpu_attention.block_mask((lengths, (-1, 0, 0), True, (100, False)), CPU)
    assert near.to_dense()[0, 0].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1]]


def test_segments_in_another_order_than_depth_first_are_refused() -> None:
    with pytest.raises(ValueError, match="does not follow it"):
        gpu_attention.Row.of([2, 2, 2], [-1, -1, 0], causal=True)


@pytest.mark.parametrize(
    ("asked", "capability", "kernel"),
    [
        (Asked(HALF, 64, 64), (8, 0), VARLEN),
        (Asked(torch.float16, 64, 64), (8, 6), VARLEN),
        (Asked(HALF, 64, 64, tree=True), (8, 0), FLEX),
        (Asked(HALF, 64, 64, chunked=True), (8, 0), FLEX),
        (Asked(HALF, 64, 64, written_out=True), (8, 0), FLEX),
        (Asked(HALF, 192, 128), (8, 0), FLEX),
        (Asked(HALF, 256, 256), (9, 0), VARLEN),
        (Asked(HALF, 256, 256), (8, 6), FLEX),
        (Asked(HALF, 100, 100), (8, 0), FLEX),
        (Asked(SINGLE, 64, 64), (9, 0), FLEX),
        (Asked(torch.float16, 64, 64), (7, 5), FLEX),
    ],
)
def test_the_kernel_is_chosen_by_what_it_can(asked: Asked, capability: tuple[int, int], kernel: str) -> None:
    assert choose(asked, capability, triton=True) == (kernel, "")


@pytest.mark.parametrize(
    ("asked", "capability", "triton", "reason"),
    [
        (Asked(HALF, 64, 64, dropout=True), (8, 0), True, "attention weights are dropped at random"),
        (Asked(HALF, 64, 64, tree=True), (8, 0), False, "Triton is not installed"),
        (Asked(HALF, 64, 64), (7, 5), True, "no kernel takes bfloat16 on a GPU of compute capability 7.5"),
        (Asked(torch.float64, 64, 64), (9, 0), True, "no kernel takes float64 on a GPU of compute capability 9.0"),
        (Asked(SINGLE, 64, 64), (6, 1), True, "no kernel takes float32 on a GPU of compute capability 6.1"),
        (Asked(SINGLE, 8, 8), (8, 0), True, "heads have fewer than 16 numbers"),
    ],
)
def test_what_no_kernel_takes_is_named(asked: Asked, capability: tuple[int, int], triton: bool, reason: str) -> None:
    assert choose(asked, capability, triton) == (EACH, reason)


def test_a_cpu_goes_segment_by_segment_and_says_nothing_of_it() -> None:
    assert gpu_attention.chosen(Asked(HALF, 64, 64), CPU) == (EACH, "")
    assert gpu_attention.unserved(tiny.base("gpt2").config, HALF, CPU, True) == ""


def test_what_a_layer_asks_is_told_also_where_layers_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Asked] = []
    monkeypatch.setattr(gpu_attention, "chosen", lambda one, device: (asked.append(one), (FLEX, ""))[1])
    config = Gemma4TextConfig(head_dim=64, global_head_dim=128)
    assert gpu_attention.unserved(config, HALF, torch.device("cuda"), True) == ""
    assert asked == [Asked(HALF, 64, 64, tree=True)]


@pytest.mark.parametrize(
    ("local", "causal", "window"),
    [
        (None, True, (-1, 0)),
        (None, False, (-1, -1)),
        (Local(3), True, (2, 0)),
        (Local(3), False, (3, 3)),
    ],
)
def test_varlen_attention_is_told_what_flash_attention_calls_a_window(
    local: Local | None, causal: bool, window: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}

    def kernel(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *row: Any, **named: Any) -> torch.Tensor:
        told.update(named, shapes=(query.shape, key.shape), starts=row[0].tolist(), longest=row[2:])
        return query

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    query, key, value = tensors(7, 0)
    out, _ = segment_attention(
        torch.nn.Module(), query, key, value, local, is_causal=causal, segments=[4, 3], kernel=VARLEN, scaling=0.5
    )
    torch.testing.assert_close(out, query.transpose(1, 2))
    assert told.pop("shapes") == ((7, 6, 8), (7, 2, 8))
    assert told == {"starts": [0, 4, 7], "longest": (4, 4), "scale": 0.5, "window_size": window, "enable_gqa": True}


@pytest.mark.parametrize("family", ["llama", "mistral-window", "gemma2", "phi"])
@pytest.mark.parametrize("share", [False, True])
def test_whole_models_give_the_padded_loss_and_gradients(
    family: str, share: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_attention, "compiled_flex", lambda: flex.written_out)
    model = tiny.with_lora(tiny.base(family))
    mine = objectives.PaddingFree(share, kernel=FLEX)
    loss, gradient = objectives.disagreement(model, mine, objectives.Padded(0), tiny.examples(6, prefix=11), CPU)
    assert loss < 1e-5
    assert gradient < 1e-4


def test_what_no_kernel_takes_is_padded_and_a_tree_that_none_takes_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    def path(no_kernel: Callable[[bool], bool]) -> str:
        why = "Triton is not installed"
        monkeypatch.setattr(gpu_attention, "unserved", lambda *asked, tree: why if no_kernel(tree) else "")
        model, batch = tiny.with_lora(tiny.base("llama")), tiny.examples(6, prefix=11)
        return str(objectives.choose(model, batch, 0, CPU, fast=True, supported=True))

    assert path(lambda tree: tree) == "padding-free"
    assert path(lambda tree: True) == "padded (Triton is not installed)"

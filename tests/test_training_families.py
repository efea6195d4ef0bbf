"""A few of the families that benchmarks/families.py tries: each takes the path that it should, and none is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import families

FAST = (
    *("llama", "mistral", "qwen2_moe", "gpt2", "phi3", "olmo2", "opt"),
    *("gemma4_text", "deepseek_v3", "cohere2", "gpt_oss"),
)
TEXTS = ("bert", "roberta", "modernbert", "gpt_neox")


@pytest.mark.parametrize(("family", "kind"), [*((one, "causal") for one in FAST), *((one, "texts") for one in TEXTS)])
def test_a_family_is_exact_with_local_attention_and_without(family: str, kind: str) -> None:
    rows = list(families.cases([kind], [family]))
    assert [row.found for row in rows] == ["exact"] * (1 + families.has_window(family)), [str(row) for row in rows]


def test_a_family_with_a_mask_of_its_own_is_padded_with_the_reason() -> None:
    row = families.case("doge", "causal", window=False)
    assert row.loss is not None  # by the chunk, as exact as what is not padded
    assert row.found == "padded"
    assert "brings a mask of its own" in str(row)


def test_what_cannot_be_built_says_why() -> None:
    assert str(families.case("mistral", "causal", window=False)).count(" | ") == 6
    row = families.case("no such family", "causal", window=False)
    assert (row.found, row.reason) == ("not built", "KeyError: 'no such family'")

"""What llama.cpp computes otherwise is refused in one line; how the rest is called."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peft_nb.adapters.gguf import obstacle
from peft_nb.adapters.gguf.architectures import ARCHITECTURES, context_length
from tests import gguf_models

CLASSES = {
    "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "gemma3": "Gemma3ForCausalLM", "gpt2": "GPT2LMHeadModel",
    "phi3": "Phi3ForCausalLM", "mistral": "MistralForCausalLM",
}  # fmt: skip


def config(family: str, **changes: Any) -> dict[str, Any]:
    return {**gguf_models.FAMILIES[family][0].to_dict(), "architectures": [CLASSES[family]], **changes}


@pytest.mark.parametrize(
    ("family", "changes", "why"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act: gelu"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1.0}}, "rope_type: dynamic"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "beta_fast": 16}}, "beta_fast: 16"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window: true"),
        ("gemma3", {"query_pre_attn_scalar": 7}, "query_pre_attn_scalar: 7, not head_dim"),
        ("gemma3", {"layer_types": ["full_attention"] * 7}, "layer_types: full_attention not in every 6th layer"),
        ("gemma3", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping: 5.0"),
        ("gpt2", {"activation_function": "relu"}, "activation_function: relu"),
    ],
)
def test_what_is_computed_otherwise(family: str, changes: dict[str, Any], why: str) -> None:
    assert obstacle(config(family)) == ""
    found = obstacle(config(family, **changes))
    assert found == f"{CLASSES[family]} with {why} is computed otherwise by llama.cpp; export it as_='merged'"


def test_an_unknown_architecture_names_those_that_are_known() -> None:
    assert obstacle({}).startswith(
        "a model of no known architecture cannot be written as GGUF yet, but LlamaForCausalLM,"
    )


def test_parameters_are_those_of_the_config() -> None:
    found = ARCHITECTURES["LlamaForCausalLM"].parameters(config("llama"))
    assert found["embedding_length"] == 64
    assert (found["attention.head_count"], found["attention.head_count_kv"], found["rope.dimension_count"]) == (
        4,
        2,
        16,
    )
    gemma = ARCHITECTURES["Gemma3ForCausalLM"].parameters(config("gemma3"))
    assert (gemma["attention.sliding_window"], gemma["rope.freq_base_swa"], gemma["rope.freq_base"]) == (8, 1e4, 1e6)


def test_a_window_that_llama_cpp_does_not_apply_bounds_the_context() -> None:
    assert context_length(config("mistral")) == 256
    assert context_length(config("mistral", sliding_window=None)) == config("mistral")["max_position_embeddings"]
    assert context_length(config("qwen2", sliding_window=16)) == config("qwen2")["max_position_embeddings"]


def test_rows_of_queries_and_keys_are_interleaved() -> None:
    rows = ARCHITECTURES["LlamaForCausalLM"].rows
    weight = torch.arange(64.0)[:, None]
    put = rows(config("llama"), "model.layers.0.self_attn.q_proj.weight", weight).flatten().tolist()
    assert put[:6] == [0, 8, 1, 9, 2, 10]
    assert put[16:18] == [16, 24]
    keys = rows(config("llama"), "model.layers.0.self_attn.k_proj.weight", weight[:32]).flatten().tolist()
    assert keys[:4] == [0, 8, 1, 9]
    assert rows(config("llama"), "model.layers.0.self_attn.v_proj.weight", weight) is weight


def test_low_frequencies_of_llama_3_are_divided_by_the_factor() -> None:
    config = gguf_models.FAMILIES["llama-3.1"][0].to_dict()
    (factors,) = ARCHITECTURES["LlamaForCausalLM"].extra(config).values()
    assert factors[0] == 1.0
    assert factors[-1] == 8.0
    assert 1.0 < factors[1] < 8.0

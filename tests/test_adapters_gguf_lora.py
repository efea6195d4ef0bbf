"""LoRA adapters as GGUF files: llama.cpp applies them as PEFT does, whatever their scaling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from peft_nb.adapters.gguf import prove, write_lora, write_model
from peft_nb.adapters.gguf.lora import lacking
from peft_nb.errors import MergeError, ModelError
from tests import gguf_models


def adapter(base: Path, where: Path, **settings: Any) -> Path:
    """Write a LoRA adapter whose B is not zero."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base)
    usual = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    adapted = get_peft_model(model, LoraConfig(**{**usual, **settings}))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    adapted.save_pretrained(where)
    return where


PATTERNS = {
    "use_rslora": True,
    "rank_pattern": {"q_proj": 8, r"layers\.1\.mlp\.up_proj": 2},
    "alpha_pattern": {"o_proj": 32, "q_proj": 4},
}


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("llama", PATTERNS),
        ("llama", {"target_modules": ["lm_head", "k_proj"]}),
        ("qwen3", {"use_rslora": True}),
        ("gemma3", {}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
        ("phi3", PATTERNS | {"rank_pattern": {"qkv_proj": 8}}),
    ],
)
def test_llama_cpp_applies_it_as_peft_does(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    base = gguf_models.folder(tmp_path / "base", family)
    saved = adapter(base, tmp_path / "adapter", **settings)
    file = write_model(base, tmp_path / "base.gguf", outtype="f32")
    lora = write_lora(saved, base, tmp_path / "lora.gguf")
    checks = prove(file, base, adapter=saved, lora=lora).table.set_index("check")["found"]
    assert checks["equal greedy tokens"] == "100.0%"
    assert float(checks["KL divergence, nats per token"]) < 1e-4
    if not settings:
        with pytest.raises(MergeError, match=r"KL divergence .* more than 0.001\), so nothing is kept"):
            prove(file, base, adapter=saved)


def test_numbers_of_plain_lora_are_those_of_peft(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    base = gguf_models.folder(tmp_path / "base", "llama")
    saved = adapter(base, tmp_path / "adapter", target_modules=["up_proj", "v_proj"])
    shown = gguf_models.shown(write_lora(saved, base, tmp_path / "lora.gguf"))
    assert (shown["general.type"], shown["adapter.type"], shown["adapter.lora.alpha"]) == ("adapter", "lora", 8.0)
    weights = load_file(saved / "adapter_model.safetensors")
    for place, name in (("ffn_up", "mlp.up_proj"), ("attn_v", "self_attn.v_proj")):
        for kind in "ab":
            ours = torch.from_numpy(shown[f"blk.1.{place}.weight.lora_{kind}"].data)
            assert torch.equal(ours, weights[f"base_model.model.model.layers.1.{name}.lora_{kind.upper()}.weight"])


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"lora_bias": True}, "LoRA biases"),
        ({"bias": "lora_only"}, "trained biases"),
        ({"trainable_token_indices": [3]}, "trained embeddings"),
        ({"init_lora_weights": "pissa"}, "base changed by init_lora_weights: pissa"),
        ({"peft_type": "LOHA"}, "adapter of PEFT's type LOHA"),
    ],
)
def test_what_a_lora_file_cannot_hold_is_refused_in_one_line(
    settings: dict[str, Any], word: str, base: Path, tmp_path: Path
) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **settings}
    assert lacking(config) == word
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"^llama.cpp's LoRA files hold no {word}; export it as_='gguf'$"):
        write_lora(tmp_path, base, tmp_path / "one.gguf")
    assert lacking({"peft_type": "LORA", "bias": "none", "init_lora_weights": "eva"}) == ""


@pytest.mark.parametrize("settings", [{"target_modules": ["embed_tokens", "q_proj"]}, {"target_modules": ["lm_head"]}])
def test_embeddings_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    base = gguf_models.folder(tmp_path / "base", "qwen3")
    saved = adapter(base, tmp_path / "adapter", **settings)
    with pytest.raises(ModelError, match=r"^llama.cpp.* export it as_='gguf'$"):
        write_lora(saved, base, tmp_path / "lora.gguf")
    assert not (tmp_path / "lora.gguf").exists()

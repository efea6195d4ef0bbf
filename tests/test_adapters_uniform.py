"""One rank and one scale for all modules of a LoRA: exactly what PEFT does with several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from peft_nb.adapters.uniform import uniform, unify
from peft_nb.errors import RunError
from tests.tiny import base

IDS = torch.tensor([[5, 60, 7, 80, 9]])
SEVERAL = {"rank_pattern": {"q_proj": 8, "down_proj": 3}, "alpha_pattern": {"q_proj": 64, r"layers.1.mlp.up_proj": 1}}


def adapted(**options: object) -> PeftModel:
    """LoRA on all layers, whose B is not zero."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **options)  # type: ignore[arg-type]
    model = get_peft_model(base("llama"), config).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05, generator=generator)
    return model


def scales(model: PeftModel) -> dict[str, float]:
    return {name: one.scaling["default"] for name, one in model.named_modules() if isinstance(one, LoraLayer)}


def test_scales_go_into_b_and_ranks_are_filled_with_zeros() -> None:
    weights = {"x.lora_A.weight": torch.ones(1, 3), "x.lora_B.weight": torch.ones(2, 1)}
    weights |= {"y.lora_embedding_A": torch.ones(2, 3), "y.lora_embedding_B": torch.ones(2, 2)}
    found, rank = uniform(weights, {"x": 3.0, "y": 0.5})
    assert rank == 2
    assert found["x.lora_A.weight"].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert found["x.lora_B.weight"].tolist() == [[3, 0], [3, 0]]
    assert found["y.lora_embedding_A"].tolist() == [[1, 1, 1]] * 2
    assert found["y.lora_embedding_B"].tolist() == [[0.5, 0.5]] * 2


@pytest.mark.parametrize("options", [SEVERAL, {**SEVERAL, "use_rslora": True}, {"use_rslora": True}, {}])
def test_peft_alone_finds_the_same_logits_without_the_patterns(options: dict[str, object], tmp_path: Path) -> None:
    model = adapted(**options)
    with torch.inference_mode():
        wanted = model(input_ids=IDS).logits
        with model.disable_adapter():
            bare = model(input_ids=IDS).logits
    model.save_pretrained(str(tmp_path))
    config = unify(tmp_path, scales(model))
    assert config == json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({}, {})
    assert config["r"] == (8 if "rank_pattern" in options else 4)
    assert config["use_rslora"] == (options == {"use_rslora": True})
    assert {len(one) for name, one in load_file(tmp_path / "adapter_model.safetensors").items() if "_A" in name} == {
        config["r"]
    }
    again = PeftModel.from_pretrained(base("llama"), str(tmp_path)).eval()
    with torch.inference_mode():
        found = again(input_ids=IDS).logits
    assert (found - wanted).abs().max() < 1e-5
    assert (bare - wanted).abs().max() > 0.1
    # What a reader of r and lora_alpha alone multiplies by is what PEFT does.
    assert set(scales(again).values()) == {config["lora_alpha"] / config["r"] ** (0.5 if config["use_rslora"] else 1)}


def test_what_is_no_low_rank_update_is_refused(tmp_path: Path) -> None:
    adapted(modules_to_save=["lm_head"]).save_pretrained(str(tmp_path))
    before = (tmp_path / "adapter_config.json").read_text()
    with pytest.raises(
        RunError, match=r"^the adapter holds .*lm_head\.weight, which is no low-rank update; --as merged"
    ):
        unify(tmp_path, {})
    assert (tmp_path / "adapter_config.json").read_text() == before

"""Weights after merging, number by number; what is written of them is tested in test_adapters_merge.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from peft_nb.adapters.merge_weights import ORIGINAL, bases, cannot, merged_into
from peft_nb.errors import MethodError
from peft_nb.models.load import load
from peft_nb.models.plain import copied
from peft_nb.models.resolve import resolve
from peft_nb.models.share import share
from peft_nb.runs.run import Run
from peft_nb.spec import RunSpec
from peft_nb.store import Facts
from tests import tiny

SPEC = RunSpec(data="rows")
TIED = {"tie_word_embeddings": True}
UP = "model.layers.0.mlp.up_proj"


def adapter(folder: Path, **changes: Any) -> PeftModel:
    """Save LoRA that changes something on the tiny Llama of a family."""
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=changes.pop("targets", "all-linear"))
    model = get_peft_model(tiny.base("llama", **changes), config)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "embedding_A" in name:
                parameter.data.normal_(std=0.2)
    model.save_pretrained(folder, save_embedding_layers=False)
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([[5, 60, 7, 80, 9]])).logits.float()


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_an_update_is_added_in_float32_and_rounded_once(tmp_path: Path) -> None:
    live = adapter(tmp_path)
    plain = merged_into(lambda: tiny.base("llama").bfloat16(), tmp_path, torch.bfloat16, SPEC)
    layer = live.get_base_model().get_submodule(UP)
    update = 8 / 4 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    rounded = tiny.base("llama").bfloat16().get_submodule(UP).weight
    found = plain.get_submodule(UP).weight
    assert torch.equal(found, (rounded.float() + update).bfloat16())
    assert not torch.equal(found, rounded + update.bfloat16())
    assert plain.config.dtype == found.dtype == torch.bfloat16


def test_the_result_is_a_plain_model_that_does_what_the_live_one_does(tmp_path: Path) -> None:
    live = adapter(tmp_path)
    plain = merged_into(lambda: tiny.base("llama"), tmp_path, torch.float32, SPEC)
    torch.testing.assert_close(logits(plain), logits(live), atol=1e-4, rtol=1e-4)
    assert weights(plain).keys() == weights(tiny.base("llama")).keys()
    assert type(plain) is type(tiny.base("llama"))
    assert not plain.training
    assert not any(one.requires_grad for one in plain.parameters())


@pytest.mark.parametrize(
    ("targets", "tied"), [(["q_proj"], True), (["lm_head"], False), (["embed_tokens"], False)], ids=str
)
def test_an_update_of_one_end_does_not_reach_the_other(tmp_path: Path, targets: list[str], tied: bool) -> None:
    live = adapter(tmp_path, targets=targets, **TIED)
    plain = merged_into(lambda: tiny.base("llama", **TIED), tmp_path, torch.float32, SPEC)
    torch.testing.assert_close(logits(plain), logits(live), atol=1e-4, rtol=1e-4)
    assert plain.config.tie_word_embeddings == tied
    assert (plain.lm_head.weight is plain.model.embed_tokens.weight) == tied
    original = tiny.base("llama", **TIED).lm_head.weight
    assert torch.equal(plain.lm_head.weight, original) == ("lm_head" not in targets)
    assert torch.equal(plain.model.embed_tokens.weight, original) == ("embed_tokens" not in targets)


def test_what_peft_cannot_merge_is_refused_in_a_line(tmp_path: Path) -> None:
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    get_peft_model(tiny.base("llama"), config).save_pretrained(tmp_path)
    with pytest.raises(MethodError, match=r"^prefix cannot be merged: .+; save\(path\) keeps the adapter") as refused:
        merged_into(lambda: tiny.base("llama"), tmp_path, torch.float32, RunSpec(data="rows", method="prefix"))
    assert "\n" not in str(refused.value)


def test_a_refusal_names_methods_that_merge() -> None:
    assert str(cannot(RunSpec(data="rows", method="prompt"), "it has virtual tokens")) == (
        "prompt cannot be merged: it has virtual tokens; save(path) keeps the adapter beside its base, and for a "
        "merged model train with one that can, such as lora, qlora, rslora, dora"
    )


def test_the_original_weights_are_those_on_disk_in_memory_of_their_own(finished: Run, base: Path) -> None:
    made = bases(finished.model, resolve(str(base)), finished.spec, Facts())
    assert list(made) == [ORIGINAL]
    found, again = made[ORIGINAL](), made[ORIGINAL]()
    wanted = weights(AutoModelForCausalLM.from_pretrained(base))
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in weights(found).items())
    assert found.lm_head.weight.data_ptr() != again.lm_head.weight.data_ptr()
    before = logits(finished.model)
    for one in found.parameters():
        one.data.zero_()
    assert torch.equal(logits(finished.model), before)
    plain = merged_into(made[ORIGINAL], finished.adapter_dir, torch.float32, finished.spec)
    torch.testing.assert_close(logits(plain), before, atol=1e-4, rtol=1e-4)


def test_a_live_pair_is_merged_into_a_copy_of_itself(finished: Run, base: Path) -> None:
    pair = (AutoModelForCausalLM.from_pretrained(base), finished.tokenizer)
    live = get_peft_model(share(pair[0]), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    pair[0].model.norm.weight.data.mul_(2)  # no longer what its folder holds
    made = bases(live, resolve(pair), finished.spec, Facts())
    assert list(made) == [ORIGINAL]
    found = made[ORIGINAL]()
    assert torch.equal(found.model.norm.weight, pair[0].model.norm.weight)
    found.model.norm.weight.data.zero_()
    assert pair[0].model.norm.weight.any()


def test_of_a_quantized_base_there_is_also_what_its_quantization_left(base: Path) -> None:
    source = resolve(str(base))
    packed = load(source, quantization="4bit").model
    live = get_peft_model(share(packed), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    made = bases(live, source, RunSpec(data="rows", method="qlora"), Facts())
    assert list(made) == [ORIGINAL, "NF4 round trip"]
    original, left = (make().get_submodule(UP).weight for make in made.values())
    assert torch.equal(original, AutoModelForCausalLM.from_pretrained(base).get_submodule(UP).weight)
    assert torch.equal(left, copied(share(packed)).get_submodule(UP).weight)
    assert 0 < (original - left).abs().max() < original.abs().max()

"""Which parts are trained, and what is refused before any is wrapped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import (
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from torch import nn

from peft_nb.errors import MethodError
from peft_nb.methods.full.model import FullConfig, trained
from peft_nb.models.share import share
from tests import tiny


def test_tied_weights_appear_with_every_module_that_holds_them() -> None:
    base = tiny.base("llama", tie_word_embeddings=True)
    assert trained(base, FullConfig(target_modules=["lm_head"])) == {
        "model.embed_tokens": ["weight"],
        "lm_head": ["weight"],
    }
    everything = trained(base, FullConfig())
    assert {*everything} > {"model.norm", "model.layers.0.mlp.up_proj", "lm_head"}
    assert "lm_head" not in trained(base, FullConfig(exclude_modules=["embed_tokens"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": "layers.["}, "target_modules: 'layers.\\[' is no regular expression"),
        ({"target_modules": []}, "names no modules"),
        ({"exclude_modules": [3]}, "exclude_modules: \\[3\\] names no modules"),
        ({"target_modules": ["nowhere"]}, "'nowhere'.* leaves nothing .* such as model.embed_tokens"),
        ({"exclude_modules": ".*"}, "leaves nothing"),
    ],
)
def test_mistakes_are_one_line(options: dict[str, object], message: str) -> None:
    base = tiny.base("llama")
    kinds = [type(module) for module in base.modules()]
    with pytest.raises(MethodError, match=message) as error:
        get_peft_model(share(base), FullConfig(task_type="CAUSAL_LM", **options))
    assert "\n" not in str(error.value)
    assert [type(module) for module in base.modules()] == kinds


class Block(nn.Module):
    """A module with a parameter of its own, and modules within it that have theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.inner = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, self.scale * self.inner(x))[0]


X = torch.linspace(-1, 1, 12).reshape(3, 4)


def shaken(base: nn.Module) -> PeftModel:
    """The same in full, every copy moved at random."""
    adapted = get_peft_model(share(base), FullConfig())
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter)
    return adapted


@pytest.fixture
def block() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Block()).requires_grad_(False)


@pytest.mark.parametrize("lean", [False, True])
def test_copies_within_a_module_that_has_its_own_are_saved_and_loaded(
    block: nn.Module, lean: bool, tmp_path: Path
) -> None:
    adapted = shaken(block)
    assert not torch.equal(adapted(X), block(X))
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(share(block), tmp_path, low_cpu_mem_usage=lean)
    assert torch.equal(loaded(X), adapted(X))
    assert not any(one.is_meta for one in loaded.parameters())


def test_copies_in_float32_are_loaded_as_they_are_with_little_memory(block: nn.Module, tmp_path: Path) -> None:
    adapted = shaken(block.to(torch.bfloat16))
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(share(block), tmp_path, low_cpu_mem_usage=True)
    expected = get_peft_model_state_dict(adapted)
    assert all(torch.equal(one, expected[name]) for name, one in get_peft_model_state_dict(loaded).items())
    assert {one.dtype for one in expected.values()} == {torch.float32}


def test_what_is_read_through_fsdp_is_what_it_computes_with(block: nn.Module) -> None:
    from torch import distributed
    from torch.distributed.fsdp import FullyShardedDataParallel

    adapted = shaken(block)
    expected = adapted(X)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = FullyShardedDataParallel(adapted, use_orig_params=True, device_id=torch.device("cpu"))
        with torch.no_grad():
            assert torch.equal(wrapped(X), expected)
        state = get_peft_model_state_dict(wrapped)
    finally:
        distributed.destroy_process_group()
    loaded = get_peft_model(share(block), FullConfig())
    set_peft_model_state_dict(loaded, state)
    assert torch.equal(loaded(X), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_base_prepared_as_for_quantized_training_is_trained_in_full(dtype: torch.dtype) -> None:
    base = tiny.base("llama", tie_word_embeddings=True).to(dtype)
    prepared = prepare_model_for_kbit_training(base, gradient_checkpointing_kwargs={"use_reentrant": False})
    adapted = get_peft_model(prepared, FullConfig(task_type="CAUSAL_LM")).train()
    ids = torch.arange(3, 15)[None]
    adapted(ids, labels=ids).loss.backward()
    copies = {name: one for name, one in adapted.named_parameters() if "full_copies" in name}
    assert {(one.dtype, one.requires_grad, one.grad is not None) for one in copies.values()} == {
        (torch.float32, True, True)
    }
    assert not any(one.requires_grad for name, one in adapted.named_parameters() if name not in copies)
    assert sum(one.numel() for one in copies.values()) == sum(
        one.numel() for one in tiny.base("llama", tie_word_embeddings=True).parameters()
    )

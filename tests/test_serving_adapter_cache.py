"""Which adapters are in memory; that they answer as they do alone is tested with the switchboard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from peft_nb.errors import ModelError, RunError
from peft_nb.serving.adapter_cache import AdapterCache
from peft_nb.serving.adapter_files import Adapter, inspect

IDS = torch.tensor([[1, 60, 7, 100, 9, 300, 12, 2]])
Make = Callable[..., Adapter]


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base).eval()


@pytest.fixture(scope="module")
def make(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Write an adapter of random values."""

    def make(name: str, **settings: Any) -> Adapter:
        folder = tmp_path_factory.mktemp(name)
        config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False, **settings)
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(str(folder))
        read, mb = inspect(name, folder, None, {})
        return Adapter(name, f"key_{name}", folder, read, mb, True, None)

    return make


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits


def test_those_that_mix_share_a_tree_and_the_others_have_their_own(model: Any, make: Make) -> None:
    cache, before = AdapterCache(model), logits(model)
    plain, other, dora = make("plain"), make("other", r=4), make("dora", use_dora=True)
    cache.load([plain, other, dora], 100)
    assert (len(cache), "plain" in cache, "third" in cache) == (3, True, False)
    assert cache.activate(plain) is cache.activate(other) is cache.shared
    assert cache.activate(dora) is not cache.shared
    said = [logits(cache.activate(one)) for one in (plain, other, dora, plain)]
    assert torch.equal(said[0], said[3])
    assert not any(torch.equal(said[0], one) for one in said[1:3])
    assert torch.equal(logits(model), before)
    cache.clear()
    assert (len(cache), cache.shared) == (0, None)


def test_the_one_not_used_for_longest_makes_room(model: Any, make: Make) -> None:
    cache = AdapterCache(model)
    ones = [make(name) for name in ("first", "second", "third")]
    most = 2 * ones[0].mb + 0.001
    held = []
    for one in (ones[0], ones[1], ones[0], ones[2]):
        cache.load([one], most)
        held.append([one.name for one in ones if one.name in cache])
    assert held == [["first"], ["first", "second"], ["first", "second"], ["first", "third"]]
    assert not [name for name, _ in cache.shared.named_parameters() if "key_second" in name]
    with pytest.raises(RunError, match=r"second takes 0\.\d MB, more than max_memory_mb, 0.001; raise it"):
        cache.load([ones[1]], 0.001)


def test_an_adapter_of_another_base_is_refused(model: Any, make: Make) -> None:
    from safetensors.torch import load_file, save_file

    one = make("foreign")
    file = one.folder / "adapter_model.safetensors"
    save_file({key: tensor.repeat(2, 2) for key, tensor in load_file(file).items()}, file)
    cache = AdapterCache(model)
    with pytest.raises(ModelError, match="foreign does not fit this base"):
        cache.load([one], 100)
    assert len(cache) == 0


def test_one_of_the_shape_of_another_answers_as_it_does_alone(model: Any, make: Make) -> None:
    first, second, third = make("alike"), make("alike-too"), make("wider", r=4)
    alone = []
    for one in (first, second, third):
        cache = AdapterCache(model)
        cache.load([one], 100)
        alone.append(logits(cache.activate(one)))
    cache = AdapterCache(model)
    cache.load([first, second, third], 100)
    assert all(
        torch.equal(logits(cache.activate(one)), said) for one, said in zip((first, second, third), alone, strict=True)
    )
    cache.load([make("another")], 3 * first.mb)  # drops some, and the others stay as they are
    assert torch.equal(logits(cache.activate(third)), alone[2])


def test_what_most_often_came_next_is_read_ahead(model: Any, make: Make) -> None:
    first, second, third = (make(name) for name in ("one", "two", "three"))
    cache = AdapterCache(model)
    for one in (first, second, first, third, first, second):
        cache.load([one], first.mb + 0.001)
        cache.activate(one)
    cache.load([first], first.mb + 0.001)
    cache.activate(first)
    cache.read_ahead()
    assert "two" in cache.bank
    cache.load([second], 100)
    assert "two" not in cache.bank
    assert second.name in cache

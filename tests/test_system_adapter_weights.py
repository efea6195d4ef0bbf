"""What was saved of an adapter is loaded, weight for weight, or it is an error; of every method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from peft_nb.errors import ModelError
from peft_nb.methods import REGISTRY, attach
from peft_nb.models.share import share
from peft_nb.spec import METHODS, RunSpec
from peft_nb.system import adapter_weights
from tests import tiny
from tests.every_method import NEEDED

FILE = "adapter_model.safetensors"
FORMS = [name for name in METHODS if "none" in REGISTRY[name].quantizations]


def adapter(method: str) -> PeftModel:
    """An adapter whose every weight is random, on a base that all share."""
    spec = RunSpec(data="x", method=method, **NEEDED.get(method, {}))
    model = attach(share(tiny.base("llama")), spec, "")
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.empty_like(parameter).normal_(std=0.1, generator=generator)
    return model.eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 11)[None]).logits[:, -8:]


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """The folder of a saved LoRA."""
    adapter("lora").save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("method", FORMS)
def test_every_methods_adapter_is_loaded_as_it_was_saved(method: str, tmp_path: Path) -> None:
    model = adapter(method)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    loaded = adapter_weights.load(share(tiny.base("llama")), tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    if method != "prefix":  # which resumes by its hooks
        adapter_weights.restore(adapter(method), tmp_path)


@pytest.mark.parametrize("method", ["full", "bitfit", "bottleneck", "lora", "adalora", "vera", "ia3"])
def test_a_weight_that_is_saved_but_has_no_place_is_an_error(method: str, tmp_path: Path) -> None:
    adapter(method).save_pretrained(tmp_path, save_embedding_layers=False)
    saved = load_file(tmp_path / FILE)
    first = next(iter(saved))
    save_file({**saved, f"{first}.other": saved[first].clone()}, tmp_path / FILE)
    with pytest.raises(ModelError, match=rf"1 of {len(saved) + 1} saved weights were not loaded, such as base_model"):
        adapter_weights.load(share(tiny.base("llama")), tmp_path)


@pytest.mark.parametrize("method", ["full", "bitfit", "bottleneck", "lora", "adalora", "vera", "ia3"])
def test_a_weight_that_the_file_lacks_is_an_error(method: str, tmp_path: Path) -> None:
    adapter(method).save_pretrained(tmp_path, save_embedding_layers=False)
    saved = load_file(tmp_path / FILE)
    del saved[last := [*saved][-1]]
    save_file(saved, tmp_path / FILE)
    with pytest.raises(ModelError) as error:
        adapter_weights.load(share(tiny.base("llama")), tmp_path)
    assert str(error.value).startswith(f"{tmp_path}: its file lacks 1 of the adapter's {len(saved) + 1} weights")
    assert last in str(error.value)


def test_a_weight_that_is_dropped_on_the_way_is_an_error(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapter("lora")
    remap = type(model.base_model)._remap_adapter_state_dict_for_load

    def forgetful(cls: type, **options: object) -> dict[str, torch.Tensor]:
        return {name: one for name, one in remap(**options).items() if "layers.1.mlp" not in name}

    monkeypatch.setattr(type(model.base_model), "_remap_adapter_state_dict_for_load", classmethod(forgetful))
    torch.nn.init.zeros_(model.get_submodule("base_model.model.model.layers.1.mlp.up_proj.lora_B.default").weight)
    with pytest.raises(ModelError, match=r"[1-6] of 28 saved weights were not loaded, such as .*layers\.1\.mlp"):
        adapter_weights.restore(model, lora)


def test_a_part_trained_whole_that_the_file_lacks_is_an_error(tmp_path: Path) -> None:
    spec = RunSpec(data="x", method="lora")
    attach(share(tiny.base("llama")), spec, "", whole=["lm_head"]).save_pretrained(tmp_path)
    saved = {name: one for name, one in load_file(tmp_path / FILE).items() if "lm_head" not in name}
    save_file(saved, tmp_path / FILE)
    with pytest.raises(ModelError, match="its file lacks 'base_model.model.lm_head.weight', a weight of the adapter"):
        adapter_weights.load(share(tiny.base("llama")), tmp_path)


def test_another_adapter_is_loaded_beside_one(lora: Path) -> None:
    model = adapter_weights.load(share(tiny.base("llama")), lora)
    assert adapter_weights.load(model, lora, "again") is model
    first, second = (get_peft_model_state_dict(model, adapter_name=name) for name in ("default", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_embeddings_of_the_base_that_were_saved_too_are_loaded(tmp_path: Path) -> None:
    adapter("lora").save_pretrained(tmp_path, save_embedding_layers=True)
    loaded = adapter_weights.load(tiny.base("llama", seed=1), tmp_path)
    expected = load_file(tmp_path / FILE)["base_model.model.model.embed_tokens.weight"]
    assert torch.equal(loaded.get_input_embeddings().weight, expected)


def test_numbers_that_are_none_are_loaded_as_they_are(lora: Path) -> None:
    saved = load_file(lora / FILE)
    next(iter(saved.values()))[0] = torch.nan
    save_file(saved, lora / FILE)
    adapter_weights.load(share(tiny.base("llama")), lora)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_an_adapter_that_is_sharded_between_processes_is_restored(method: str, tmp_path: Path) -> None:
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    trained, model = adapter(method), adapter(method)
    trained.save_pretrained(tmp_path, save_embedding_layers=False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.zero_()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
        fully_shard(model, mesh=mesh)
        adapter_weights.restore(model, tmp_path)
        assert torch.equal(logits(model), logits(trained))
    finally:
        distributed.destroy_process_group()

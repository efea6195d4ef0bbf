"""What is known of an adapter on disk before it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, PromptTuningConfig
from safetensors.torch import save_file

from peft_nb.errors import MethodError, ModelError, StoreError
from peft_nb.serving.adapter_files import Adapter, find, inspect, is_run
from peft_nb.spec import RunSpec
from peft_nb.store import Facts, Store
from tests.stores import finish

SPEC = RunSpec(data="tickets", system="Be brief.")
LORA = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
WHOLE = "base_model.model.lm_head.weight"
HEAD = {"lm_head.weight": torch.ones(10, 100)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter of one tensor of 1,000 numbers."""
    return written(tmp_path / "legal", LORA)


def written(folder: Path, *keys: str, **settings: Any) -> Path:
    LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], **settings).save_pretrained(str(folder))
    save_file({key: torch.zeros(10, 100) for key in keys}, folder / "adapter_model.safetensors")
    return folder


def test_a_folder_is_called_as_it_is_and_that_of_a_run_as_the_run(folder: Path) -> None:
    assert find(str(folder)) == ("legal", folder, None, Facts())
    (folder / "spec.yaml").write_text(SPEC.to_yaml())
    assert find(folder) == ("legal", folder, SPEC, Facts())
    inner = written(folder / "adapter", LORA)
    assert find(inner)[0] == "legal"


def test_a_run_of_the_store_is_found_by_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFT_NB_STORE", str(store.folder))
    id = finish(store, "desk", SPEC.to_yaml(), facts=Facts(base="tiny"))
    name, place, spec, facts = find("desk")
    assert (name, place, spec) == ("desk", store.folder_of(id) / "adapter", SPEC)
    assert facts.base == "tiny"
    with pytest.raises(StoreError, match="did you mean 'desk'"):
        find("dsk")


@pytest.mark.parametrize("one", ["desk", Path("desk"), ("model", "tokenizer")])
def test_what_is_no_run(one: object) -> None:
    assert not is_run(one)


def test_settings_and_size_are_read(folder: Path) -> None:
    config, mb = inspect("legal", folder, SPEC, HEAD)
    assert config.target_modules == {"q_proj"}
    assert mb == pytest.approx(4_000 / 2**20, rel=0.05)


def test_weights_of_the_base_are_refused_unless_the_adapter_has_them_to_itself(tmp_path: Path) -> None:
    brings = written(tmp_path / "whole", LORA, WHOLE)
    with pytest.raises(MethodError, match=r"whole brings lm_head\.weight, a weight of the base itself"):
        inspect("whole", brings, None, HEAD)
    inspect("whole", brings, None, {"lm_head.weight": torch.zeros(10, 100)})  # the base has the same
    own = written(tmp_path / "own", WHOLE, modules_to_save=["lm_head"])
    assert inspect("own", own, None, HEAD)[0].modules_to_save == ["lm_head"]


@pytest.mark.parametrize("lacking", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_without_an_adapter_is_refused(folder: Path, lacking: str) -> None:
    (folder / lacking).unlink()
    with pytest.raises(ModelError, match="legal: .* holds no adapter that can be read"):
        inspect("legal", folder, None, {})


@pytest.mark.parametrize(
    ("config", "mixes"),
    [
        (LoraConfig(), True),
        (LoraConfig(use_rslora=True, target_modules=["q_proj"], r=4), True),
        (LoraConfig(use_dora=True), False),
        (LoraConfig(bias="all"), False),
        (LoraConfig(modules_to_save=["lm_head"]), False),
        (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), False),
    ],
)
def test_which_adapters_can_share_a_batch(config: PeftConfig, mixes: bool) -> None:
    assert Adapter("a", "a0", Path("a"), config, 1.0, True, None).mixes is mixes

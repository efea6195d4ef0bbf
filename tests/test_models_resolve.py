from __future__ import annotations

from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

from peft_nb.errors import ModelError
from peft_nb.models import ALIASES, bundled
from peft_nb.models.resolve import resolve
from tests import tiny


@pytest.fixture(scope="module")
def default() -> Path:
    return bundled.fetch(ALIASES["smollm2-135m"], lambda share, text: None)


@pytest.fixture(scope="module")
def pair(default):
    return tiny.base("llama"), AutoTokenizer.from_pretrained(default)


def refusal(model, **more) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(model, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_alias_in_the_cache_is_taken_from_there(default):
    source = resolve("smollm2-135m")
    assert (source.kind, source.path, source.where) == ("alias", default, "cached")


def test_a_folder_is_a_model(default):
    for given in (str(default), default):
        source = resolve(given)
        assert (source.name, source.kind, source.path) == (str(default), "folder", default.resolve())


def test_a_gguf_file_is_a_model(tmp_path, monkeypatch):
    (tmp_path / "small.gguf").touch()
    monkeypatch.chdir(tmp_path)
    source = resolve("small.gguf")
    assert (source.kind, source.path, source.gguf_file) == ("gguf", tmp_path, "small.gguf")


def test_a_pair_is_a_model_by_itself_and_by_the_name_of_its_variable(pair):
    assert resolve(pair).pair == pair
    assert resolve(pair).name == "(in memory)"
    source = resolve("mine", namespace={"mine": list(pair)})
    assert (source.name, source.kind, source.pair, source.where) == ("mine", "live", pair, "in memory")


def test_variables_that_hold_no_model_do_not_hide_other_meanings(default):
    assert resolve("smollm2-135m", namespace={"smollm2-135m": 3}).kind == "alias"


def test_a_pair_the_wrong_way_round_is_refused(pair):
    assert "write (model, tokenizer)" in refusal(pair[::-1])


def test_a_model_without_its_tokenizer_is_refused(pair):
    assert "the pair (model, tokenizer), not one LlamaForCausalLM" in refusal("bare", namespace={"bare": pair[0]})
    assert "not (LlamaForCausalLM, int)" in refusal((pair[0], 3))


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_model_with_an_adapter_is_refused(pair, wrapped):
    inner = tiny.base("llama")
    outer = get_peft_model(inner, LoraConfig(r=2, target_modules="all-linear"))
    assert "would be stacked on it; take the adapter out with model.unload()" in refusal(
        (outer if wrapped else inner, pair[1])
    )


def test_an_empty_folder_is_refused(tmp_path):
    assert "it has no config.json; a model is an alias, a folder" in refusal(str(tmp_path))


def test_a_folder_with_pickled_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").touch()
    assert "it has no model.safetensors" in refusal(str(tmp_path))


def test_a_folder_of_gguf_files_names_one(tmp_path):
    (tmp_path / "a.gguf").touch()
    assert f"name the file itself: {tmp_path / 'a.gguf'}" in refusal(str(tmp_path))


def test_a_folder_with_an_adapter_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "holds an adapter; name the base model" in refusal(str(tmp_path))


def test_another_file_is_refused(tmp_path):
    (tmp_path / "model.bin").touch()
    assert "is a file, but not a .gguf file" in refusal(str(tmp_path / "model.bin"))


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c", "nowhere.gguf", "~/nowhere/at/all"])
def test_a_path_that_does_not_exist_is_refused(name):
    assert "there is no such file or folder" in refusal(name)


@pytest.mark.parametrize("name", ["some--one/x", "a..b"])
def test_a_name_the_hub_cannot_have_is_refused(name):
    assert f"no model {name!r}: a model is an alias" in refusal(name)

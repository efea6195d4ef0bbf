from __future__ import annotations

import gc
import json
import os
import shutil
import threading
import weakref
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BertModel, LlamaForCausalLM

from peft_nb.errors import ModelError
from peft_nb.models import ALIASES, bundled
from peft_nb.models.load import forget, load
from peft_nb.models.resolve import resolve
from tests import tiny

TEXT = "The capital of France is"


@pytest.fixture(scope="module")
def default() -> Path:
    return bundled.fetch(ALIASES["smollm2-135m"], lambda share, text: None)


@pytest.fixture(autouse=True, scope="module")
def give_back():
    yield
    forget()


def small_folder(folder: Path, default: Path, **changes: object) -> Path:
    """A tiny random Llama with the default tokenizer; ``changes`` go to the tokenizer's settings."""
    model = tiny.base("llama", vocab_size=49_152, hidden_size=64, intermediate_size=128)
    model.save_pretrained(folder)
    shutil.copy(default / "tokenizer.json", folder)
    settings = json.loads((default / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **changes}))
    return folder


@pytest.fixture(scope="module")
def small(default, tmp_path_factory) -> Path:
    return small_folder(tmp_path_factory.mktemp("small"), default)


@pytest.fixture
def pair(small):
    return AutoModelForCausalLM.from_pretrained(small), AutoTokenizer.from_pretrained(small)


def refusal(*what, **how) -> str:
    with pytest.raises(ModelError) as caught:
        load(resolve(*what), **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_default_model_loads_frozen_and_writes():
    base = load(resolve("smollm2-135m"))
    assert type(base.model) is LlamaForCausalLM
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert (base.dtype, base.quantization, base.device, base.notes) == ("float32", "none", "cpu", [])
    answer = base.model.generate(**base.tokenizer(TEXT, return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert "Paris" in base.tokenizer.decode(answer[0])


def test_a_base_is_loaded_once_for_all_threads(small):
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(load(resolve(small)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(map(id, found))) == 1


def test_another_dtype_is_another_base(small):
    held = load(resolve(small))
    other = load(resolve(small), dtype="bfloat16")
    assert {parameter.dtype for parameter in other.model.parameters()} == {torch.bfloat16}
    assert load(resolve(small)) is held
    assert other.identity == held.identity


def test_the_dtype_may_be_chosen_from_the_configuration(small, pair):
    asked = []

    def choose(config):
        asked.append(config.model_type)
        return "bfloat16"

    assert load(resolve(small), dtype=choose).dtype == "bfloat16"
    assert asked == ["llama"]
    assert load(resolve(pair), dtype=choose).dtype == "float32"


def test_a_changed_folder_is_loaded_anew(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "model")
    first = load(resolve(folder))
    os.utime(folder / "model.safetensors", (2e9, 2e9))
    assert load(resolve(folder)) is not first


def test_memory_is_given_back(small):
    forget()
    base = weakref.ref(load(resolve(small)).model)
    assert base() is not None
    forget()
    assert base() is None
    base = weakref.ref(load(resolve(small)).model)
    load(resolve(small), dtype="bfloat16")
    gc.collect()
    assert base() is None  # the next base takes its place


def test_identity_tells_bases_apart(small, tmp_path, default):
    same = shutil.copytree(small, tmp_path / "model")
    assert load(resolve(small)).identity == load(resolve(small), quantization="8bit").identity
    config = json.loads((same / "config.json").read_text())
    (same / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert load(resolve(small)).identity.split()[-1] != load(resolve(same)).identity.split()[-1]
    assert load(resolve("smollm2-135m")).identity.startswith("smollm2-135m (bundled) ")


@pytest.mark.exhaustive
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantized_base_writes_quietly_and_close_to_the_original(quantization, capfd, recwarn):
    exact = load(resolve("smollm2-135m"))
    base = load(resolve("smollm2-135m"), quantization=quantization)
    assert base.quantization == quantization
    kinds = {type(module).__name__ for module in base.model.modules()}
    assert ("Linear4bit" if quantization == "4bit" else "Linear8bitLt") in kinds
    inputs = base.tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad():
        for _ in range(2):
            logits = base.model(**inputs).logits[0, -1].log_softmax(-1)
        expected = exact.model(**inputs).logits[0, -1].log_softmax(-1)
    assert (expected.exp() * (expected - logits)).sum() < 0.5
    assert capfd.readouterr() == ("", "")
    if quantization == "4bit":
        state = base.model.model.layers[0].mlp.up_proj.weight.quant_state
        assert (state.quant_type, state.nested) == ("nf4", True)


def test_nothing_is_shown_while_loading(small, capfd):
    forget()
    load(resolve(small))
    load(resolve("smollm2-135m"), dtype="bfloat16")
    assert capfd.readouterr() == ("", "")


def test_a_missing_pad_token_is_replaced_and_told(small, default, tmp_path):
    base = load(resolve(small_folder(tmp_path, default, pad_token=None)))
    assert base.tokenizer.pad_token == "<|im_end|>"
    assert base.notes == [f"{tmp_path} has no pad token; its end token '<|im_end|>' pads, and is still learned"]


def test_a_tokenizer_of_another_model_is_refused(pair):
    assert "49152 tokens but the model only 96" in refusal((tiny.base("llama"), pair[1]))


def test_missing_weights_are_never_filled_with_random_numbers(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    weights = model.state_dict()
    del weights["model.layers.1.mlp.up_proj.weight"]
    model.save_pretrained(folder, state_dict=weights)
    assert "its files lack model.layers.1.mlp.up_proj.weight" in refusal(str(folder))


def test_broken_files_give_one_line(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"broken")
    assert refusal(str(folder)).startswith(f"cannot load {folder}: ")
    (folder / "config.json").write_text("{")
    assert refusal(str(folder)).startswith(f"cannot load {folder}: ")


def test_code_of_a_model_is_never_run(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "model")
    settings = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "needs code from its own repository, which is never run" in refusal(str(folder))
    assert not (tmp_path / "ran").exists()


def test_an_encoder_is_loaded_when_asked_for_and_refused_otherwise():
    base = load(resolve("minilm-l6"), kind="encoder")
    assert type(base.model) is BertModel
    with torch.no_grad():
        assert base.model(**base.tokenizer(TEXT, return_tensors="pt")).last_hidden_state.shape[-1] == 384
    assert "a bert model, which writes no text; choose a causal one, such as smollm2-135m" in refusal("minilm-l6")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"dtype": "bfloat"}, "unknown dtype 'bfloat'; did you mean 'bfloat16'?"),
        ({"device": "tpu"}, "this machine has no device 'tpu'; choose cpu"),
        ({"quantization": "2bit"}, "unknown quantization '2bit'; choose none, 4bit or 8bit"),
    ],
)
def test_what_cannot_be_done_is_refused(small, how, message):
    assert refusal(small, **how).startswith(message)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_gpu_is_told_before_anything_is_fetched(small):
    assert refusal("smollm2-135m", device="cuda").startswith("this machine has no device 'cuda'; choose cpu")


def test_a_live_model_stays_as_it_was(pair):
    model, tokenizer = pair
    tokenizer.pad_token = None
    model.train()
    base = load(resolve(pair), dtype="bfloat16")
    assert base.model is not model
    assert base.model.dtype == torch.bfloat16
    assert base.model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert base.tokenizer.pad_token is not None
    assert model.dtype == torch.float32
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer.pad_token is None


def test_a_live_model_of_the_same_dtype_costs_no_memory(pair):
    base = load(resolve(pair))
    assert [p.data_ptr() for p in base.model.parameters()] == [p.data_ptr() for p in pair[0].parameters()]


def test_a_live_model_cannot_be_quantized_but_may_be_quantized_already(small, pair):
    assert "a live model cannot be quantized to 4bit" in refusal(pair, quantization="4bit")
    quantized = load(resolve(small), quantization="4bit")
    base = load(resolve((quantized.model, quantized.tokenizer)))
    assert base.quantization == "4bit"
    assert base.notes == ["(in memory) is a live model in 4bit, and is used as it is"]

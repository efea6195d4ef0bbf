from __future__ import annotations

import os
import time
from pathlib import Path

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from peft_nb.errors import ModelError
from peft_nb.models import ALIASES, bundled
from peft_nb.models.convert import converted
from tests import tiny


def nothing(share: float, text: str) -> None:
    pass


@pytest.fixture(scope="module")
def default() -> Path:
    return bundled.fetch(ALIASES["smollm2-135m"], nothing)


@pytest.fixture(scope="module")
def tokenizer(default) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(default)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFT_NB_CACHE", str(tmp_path / "cache"))


def rotated(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The order in which GGUF files keep the rows of query and key weights."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write_gguf(path, model, leave_out=""):
    """A Llama model with 96 byte-level tokens whose text is split before every digit."""
    config, weights = model.config, model.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    tokens = ["<end>", *(chr(code) for code in range(33, 126)), "Ġ", "ĠĠ"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in weights.items():
        if name == leave_out:
            continue
        if name.endswith("q_proj.weight"):
            weight = rotated(weight, config.num_attention_heads)
        if name.endswith("k_proj.weight"):
            weight = rotated(weight, config.num_key_value_heads)
        writer.add_tensor(names.get_name(name, (".weight",)), weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_becomes_a_plain_folder_once(tmp_path):
    model = tiny.base("llama")
    file = write_gguf(tmp_path / "small.gguf", model)
    told: list[float] = []
    folder = converted(file, lambda share, text: told.append(share))
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert folder.name.startswith("small-")
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert type(again) is LlamaForCausalLM
    assert "quant" not in (folder / "config.json").read_text()
    assert not hasattr(again, "hf_quantizer")
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight, rtol=0, atol=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  12")["input_ids"]) == ["a", "ĠĠ", "1", "2"]
    begun = time.perf_counter()
    assert converted(file, nothing) == folder
    assert time.perf_counter() - begun < 0.05
    os.utime(file, (1, 1))
    assert converted(file, nothing) != folder


@pytest.mark.parametrize("damage", ["empty", "no header", "cut", "other sizes"])
def test_a_broken_gguf_file_gives_one_line(tmp_path, damage):
    file = write_gguf(tmp_path / "broken.gguf", tiny.base("llama"))
    whole = file.read_bytes()
    heads = whole.index(b"llama.attention.head_count") + len(b"llama.attention.head_count") + 4
    broken = {
        "empty": b"",
        "no header": b"GGUF" + bytes(64),
        "cut": whole[: len(whole) // 2],
        "other sizes": whole[:heads] + b"\7" + whole[heads + 1 :],
    }
    file.write_bytes(broken[damage])
    with pytest.raises(ModelError, match=r"cannot read broken\.gguf as a model: ") as caught:
        converted(file, nothing)
    assert "\n" not in str(caught.value)


def test_a_gguf_file_that_lacks_weights_is_refused(tmp_path):
    file = write_gguf(tmp_path / "part.gguf", tiny.base("llama"), leave_out="model.layers.1.mlp.up_proj.weight")
    with pytest.raises(ModelError, match=r"part.gguf .* it lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        converted(file, nothing)


def test_conversion_shows_no_bar_and_no_log(tmp_path, capfd):
    converted(write_gguf(tmp_path / "small.gguf", tiny.base("llama")), nothing)
    assert capfd.readouterr() == ("", "")


def test_the_default_model_reads_back_plain_and_tied(default):
    model = AutoModelForCausalLM.from_pretrained(default)
    assert type(model) is LlamaForCausalLM
    assert not hasattr(model, "hf_quantizer")
    assert not getattr(model, "is_quantized", False)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert sum(parameter.numel() for parameter in model.parameters()) == ALIASES["smollm2-135m"].parameters


def test_the_default_tokenizer_has_the_special_tokens_of_the_original(tokenizer):
    special = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    assert special == {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
    }
    assert len(tokenizer) == 49_152
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [0, 1, 2]
    assert tokenizer.model_max_length == 8192


@pytest.mark.parametrize(
    "text", ["hello", " two  spaces\n\n  and tabs\t", "café 日本語 🙂", "order 4711, 10 km\n  5", "don't ½ ²", ""]
)
def test_the_default_tokenizer_loses_no_text_and_adds_no_token(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert not set(ids) & {0, 1, 2}


def test_the_default_tokenizer_splits_before_every_digit_like_the_original(tokenizer):
    # Its merges were learned on text split there; else the two spaces would end up apart.
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  12")["input_ids"]) == ["a", "ĠĠ", "1", "2"]


def test_the_default_chat_template_is_the_original_one(tokenizer):
    chat = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )

"""Tiny random models with real tokenizers, as folders, of every architecture that can be written as GGUF."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from peft_nb.adapters.gguf.vocabulary import LLAMA3, QWEN2
from peft_nb.data import support_desk
from tests.conftest import CHATML

SIZES = {"vocab_size": 640, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
HEADS = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LONG_ROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 1024,
    "short_factor": [1.0 + place / 8 for place in range(8)], "long_factor": [2.0 + place for place in range(8)],
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
GPT2 = {"vocab_size": 640, "n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.1}

FAMILIES: dict[str, tuple[Any, str]] = {
    "llama": (LlamaConfig(**HEADS, **IDS), "llama-bpe"),
    "smollm": (LlamaConfig(**HEADS, **IDS, tie_word_embeddings=True, rope_parameters=YARN), "smollm"),
    "llama-3.1": (
        LlamaConfig(**HEADS, **IDS, attention_bias=True, max_position_embeddings=256, rope_parameters=LLAMA3_ROPE),
        "llama-bpe",
    ),
    "llama-2": (LlamaConfig(**HEADS, **IDS), "prefixed"),
    "mistral": (MistralConfig(**HEADS, **IDS, head_dim=32, sliding_window=256), "prefixed"),
    "qwen2": (Qwen2Config(**HEADS, **IDS), "qwen2"),
    "qwen3": (Qwen3Config(**HEADS, **IDS, head_dim=32, tie_word_embeddings=True), "qwen2"),
    "gemma3": (
        Gemma3TextConfig(
            **{**HEADS, "num_hidden_layers": 7}, **IDS, head_dim=32, query_pre_attn_scalar=32, sliding_window=8
        ),
        "plain",
    ),
    "gpt2": (GPT2Config(**GPT2, **IDS, attn_pdrop=0, resid_pdrop=0, embd_pdrop=0), "gpt-2"),
    "phi3": (Phi3Config(**HEADS, **IDS, sliding_window=256), "prefixed"),
    "phi3-long": (
        Phi3Config(**HEADS, **IDS, max_position_embeddings=4096, original_max_position_embeddings=1024,
                   rope_parameters=LONG_ROPE),
        "prefixed",
    ),
}  # fmt: skip


def texts() -> list[str]:
    """What tokenizers are trained on."""
    return [row[part] for row in support_desk.load()["train"] for part in ("question", "answer")]


SPECIAL = ["<|pad|>", "<|begin|>", "<|im_end|>", "<|im_start|>"]


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer with one of llama.cpp's pre-tokenizers, or with pieces as SentencePiece has them."""
    if kind in ("prefixed", "plain"):
        core = pieces(kind)
        core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in [*SPECIAL, "<unk>"]])
    else:
        core = byte_level(kind)
    names = {"pad_token": SPECIAL[0], "bos_token": SPECIAL[1], "eos_token": SPECIAL[2]}
    if kind in ("prefixed", "plain"):
        names["unk_token"] = "<unk>"
    if kind != "smollm":
        core.post_processor = processors.TemplateProcessing(single=f"{SPECIAL[1]} $A", special_tokens=[(SPECIAL[1], 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=core, **names)
    made.chat_template = "{{ bos_token }}" * (kind != "smollm") + CHATML
    return made


def byte_level(kind: str) -> Tokenizer:
    """Byte-level BPE."""
    core = Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    patterns = {"llama-bpe": LLAMA3, "qwen2": QWEN2}
    if kind in patterns:
        split = pre_tokenizers.Split(Regex(patterns[kind]), "isolated")
        core.pre_tokenizer = pre_tokenizers.Sequence([split, bare])
    elif kind == "smollm":
        core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    else:
        core.pre_tokenizer = words
    if kind == "qwen2":
        core.normalizer = normalizers.NFC()
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    core.train_from_iterator([*texts(), "10 km 3.14159 1,000,000\n\n\tx  y"] * 2, trainer)
    return core


def pieces(kind: str, more: tuple[str, ...] = ()) -> Tokenizer:
    """BPE with bytes for what it has not, and the merges that SentencePiece's scores stand for."""
    space = "▁"
    words = {space + word for text in texts()[:60] for word in text.split() if word.isalpha()}
    parts = {word[:end] for word in sorted(words)[:60] for end in range(2, len(word) + 1)}
    letters = sorted({letter for word in words for letter in word} | set("user\nassistant<|_>"))
    parts |= {*more} - {*letters}
    tokens = [*SPECIAL, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    tokens += sorted(parts, key=lambda part: (len(part), part))[: 620 - len(tokens)]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    merges = [
        (token[:cut], token[cut:])
        for token in tokens[tokens.index(letters[-1]) + 1 :]
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps = [normalizers.Replace(" ", space)]
    core.normalizer = normalizers.Sequence([normalizers.Prepend(space), *steps]) if kind == "prefixed" else steps[0]
    core.decoder = decoders.Sequence([decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse()])
    return core


def folder(where: Path, family: str, **changes: Any) -> Path:
    """Write a random model of a family, with its tokenizer, as a plain folder."""
    config, kind = FAMILIES[family]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(type(config)(**{**config.to_dict(), **changes}))
    for _name, weight in model.named_parameters():
        if weight.ndim == 1:  # else norms would be ones and biases zeros, and a mistake in them unseen
            weight.data += torch.randn_like(weight) * 0.1
    model.save_pretrained(where)
    tokenizer(kind).save_pretrained(where)
    return where


def shown(file: Path) -> dict[str, Any]:
    """What a GGUF file says of its model."""
    import gguf

    reader = gguf.GGUFReader(file)
    found = {name: field.contents() for name, field in reader.fields.items()}
    return found | {tensor.name: tensor for tensor in reader.tensors}


def changed(file: Path, **values: Any) -> None:
    """Change a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


# What models were released with: the settings in tokenizer_config.json, and the tokens that were added. A class that
# transformers knows makes the pre-tokenizer anew, whatever tokenizer.json says.
RELEASED: dict[str, tuple[str, str, dict[str, Any], list[str]]] = {
    "llama-3": (
        "llama",
        "llama-bpe",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
            "clean_up_tokenization_spaces": True,
        },
        ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    ),
    "smollm2": (
        "smollm",
        "smollm",
        {
            "tokenizer_class": "GPT2Tokenizer",
            "add_prefix_space": False,
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
        },
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>"],
    ),
    "gpt-2": (
        "gpt2",
        "gpt-2",
        {
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
        },
        ["<|endoftext|>"],
    ),
    "qwen2": (
        "qwen2",
        "qwen2",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "add_prefix_space": False,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
        },
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    ),
    "qwen3": (
        "qwen3",
        "qwen2",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "add_bos_token": False,
            "add_prefix_space": False,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
        },
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "+<tool_call>", "+</tool_call>", "+<think>", "+</think>"],
    ),
    "gemma-3": (
        "gemma3",
        "plain",
        {
            "tokenizer_class": "GemmaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
        },
        ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", "+\n\n", "+▁▁", "+▁▁▁"],
    ),
    "mistral": (
        "mistral",
        "prefixed",
        {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "legacy": True,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
        },
        ["<unk>", "<s>", "</s>"],
    ),
    "phi-3": (
        "phi3",
        "prefixed",
        {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": False,
            "add_eos_token": False,
            "legacy": False,
            "bos_token": "<s>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "unk_token": "<unk>",
        },
        ["<unk>", "<s>", ">+</s>", "<|endoftext|>", "><|assistant|>", "><|end|>", "><|user|>"],
    ),
}


# As Mistral's but for its class, for which transformers makes another pre-tokenizer; llama.cpp has none that is equal.
LLAMA2 = {**RELEASED["mistral"][2], "legacy": False}


def released(where: Path, family: str) -> Path:
    """Write a random model with a small tokenizer of the structure that a family was released with."""
    sizes, kind, settings, names = RELEASED[family]
    core = pieces(kind, ("\n", "\n\n", "▁▁", "▁▁▁")) if kind in ("prefixed", "plain") else byte_level(kind)
    if kind == "plain":
        core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    # In front of a name: > where it takes the spaces after it, + where it is no special token.
    added = [
        AddedToken(name.lstrip(">+"), rstrip=">" in name[:2], normalized=False, special="+" not in name[:2])
        for name in names
    ]
    core.add_tokens(added)
    begin = settings.get("bos_token")
    if family == "llama-3":
        template = processors.TemplateProcessing(f"{begin} $A", special_tokens=[(begin, core.token_to_id(begin))])
        core.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    elif settings.get("add_bos_token"):
        template = processors.TemplateProcessing(f"{begin} $A", special_tokens=[(begin, core.token_to_id(begin))])
        core.post_processor = template
    elif kind in ("gpt-2", "qwen2"):
        core.post_processor = processors.ByteLevel(trim_offsets=False)
    folder(where, sizes, vocab_size=core.get_vocab_size())
    for old in where.glob("*token*"):
        old.unlink()
    (where / "chat_template.jinja").unlink(missing_ok=True)
    core.save(str(where / "tokenizer.json"))
    (where / "tokenizer_config.json").write_text(json.dumps(settings))
    return where

"""Tokenizers are written where llama.cpp makes the same tokens, and refused with the reason where it does not."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from peft_nb.adapters.gguf import write_model
from peft_nb.adapters.gguf.proof import Runtime
from peft_nb.adapters.gguf.vocabulary import BYTE, CONTROL, NORMAL, PRE, UNKNOWN, UNUSED, USER_DEFINED, vocabulary
from peft_nb.errors import ModelError
from tests import gguf_models


def changed(kind: str, **parts: Any) -> PreTrainedTokenizerFast:
    """A tokenizer with parts of its core replaced."""
    made = copy.deepcopy(gguf_models.tokenizer(kind))
    for name, part in parts.items():
        setattr(made.backend_tokenizer, name, part)
    return made


@pytest.mark.parametrize("kind", PRE)
def test_byte_level_tokenizers_are_told_by_their_patterns(kind: str) -> None:
    made = gguf_models.tokenizer(kind)
    found = vocabulary(made, 640, [3, 2, 50, 60])
    data = {name.removeprefix("tokenizer."): value for name, value in found.metadata.items()}
    assert (data["ggml.model"], data["ggml.pre"]) == ("gpt2", kind)
    assert len(data["ggml.tokens"]) == len(data["ggml.token_type"]) == 640
    assert data["ggml.tokens"][:3] == ["<|pad|>", "<|begin|>", "<|im_end|>"]
    assert data["ggml.token_type"][1] == CONTROL
    assert data["ggml.token_type"][10] == NORMAL
    assert (data["ggml.tokens"][-1], data["ggml.token_type"][-1]) == ("[PAD639]", UNUSED)
    assert data["ggml.add_bos_token"] == (kind != "smollm")
    assert data["ggml.add_eos_token"] is False
    assert [data[f"ggml.{name}_token_id"] for name in ("bos", "eos", "padding", "eot", "eom")] == [1, 2, 0, 3, 50]
    assert data["chat_template"] == made.chat_template
    assert ("NFC" in "".join(found.notes)) == (kind == "qwen2")
    assert found.notes[-1].startswith("answers that end with ")


@pytest.mark.parametrize("kind", ["prefixed", "plain"])
def test_pieces_are_scored_in_the_order_of_their_merges(kind: str) -> None:
    data = vocabulary(gguf_models.tokenizer(kind), 640).metadata
    assert data["tokenizer.ggml.model"] == "llama"
    assert data["tokenizer.ggml.add_space_prefix"] == (kind == "prefixed")
    types = dict(zip(data["tokenizer.ggml.tokens"], data["tokenizer.ggml.token_type"], strict=True))
    assert (types["<unk>"], types["<0x0A>"], types["<|pad|>"], types["a"]) == (UNKNOWN, BYTE, CONTROL, NORMAL)
    scores = dict(zip(data["tokenizer.ggml.tokens"], data["tokenizer.ggml.scores"], strict=True))
    grown = [token for token in scores if token.startswith("▁") and len(token) > 1]
    assert len(grown) > 10
    assert grown == sorted(grown, key=lambda token: -scores[token])


def test_spaces_that_only_the_pre_tokenizer_writes_are_plain() -> None:
    bare = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
    data = vocabulary(changed("plain", normalizer=None, pre_tokenizer=bare), 640).metadata
    assert data["tokenizer.ggml.add_space_prefix"] is False


def test_added_tokens_that_are_not_special_are_found_in_texts() -> None:
    made = changed("gpt-2")
    made.add_tokens(["<tool>"])
    data = vocabulary(made, 640).metadata
    place = data["tokenizer.ggml.tokens"].index("<tool>")
    assert data["tokenizer.ggml.token_type"][place] == USER_DEFINED


OTHER = pre_tokenizers.Sequence(
    [pre_tokenizers.Split(Regex(r"\p{N}{1,2}|\s+"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
)


@pytest.mark.parametrize(
    ("kind", "parts", "why"),
    [
        ("gpt-2", {"pre_tokenizer": OTHER}, "its pre-tokenizer is none of gpt-2, smollm, llama-bpe, qwen2"),
        ("llama-bpe", {"pre_tokenizer": pre_tokenizers.ByteLevel(True)}, "its pre-tokenizer is none of"),
        ("gpt-2", {"normalizer": normalizers.Lowercase()}, "its normalizer is Lowercase"),
        (
            "gpt-2",
            {"post_processor": processors.TemplateProcessing("<|im_start|> $A", special_tokens=[("<|im_start|>", 3)])},
            "it puts other tokens around a text than bos_token and eos_token",
        ),
        ("prefixed", {"normalizer": normalizers.Prepend("▁")}, "it writes spaces otherwise than SentencePiece"),
        (
            "plain",
            {"normalizer": None, "pre_tokenizer": pre_tokenizers.Metaspace("▁", "first")},
            "it writes spaces other",
        ),
    ],
)
def test_what_llama_cpp_does_otherwise_is_refused(kind: str, parts: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelError, match=f"^the tokenizer cannot be written as GGUF: {why}.*; export it with as_='me"):
        vocabulary(changed(kind, **parts), 640)


def test_a_pattern_with_another_way_to_merge_is_not_taken_for_it() -> None:
    made = changed("llama-bpe")
    made.backend_tokenizer.model.ignore_merges = False
    with pytest.raises(ModelError, match="its pre-tokenizer is none of"):
        vocabulary(made, 640)


def test_tokens_that_take_spaces_are_refused_but_as_phi_3_has_them() -> None:
    made = changed("prefixed")
    made.add_tokens([AddedToken("<|end|>", special=True, rstrip=True, normalized=False)], special_tokens=True)
    with pytest.raises(ModelError, match=r"<\|end\|> takes spaces beside it"):
        vocabulary(made, 640)


def test_too_many_tokens_and_no_end_are_refused() -> None:
    with pytest.raises(ModelError, match=r"it has \d+ tokens, and the model 100 embeddings"):
        vocabulary(gguf_models.tokenizer("gpt-2"), 100)
    made = changed("gpt-2")
    made.eos_token = None
    with pytest.raises(ModelError, match="it has no eos_token"):
        vocabulary(made, 640)


LEFT, RIGHT, WHOLE, OTHER_WHOLE = ["<", "|"], ["|", "_"], ["<|", "_"], ["<", "|_"]


@pytest.mark.parametrize(
    ("merges", "why"),
    [
        ([LEFT, RIGHT, WHOLE, OTHER_WHOLE], ""),
        ([LEFT, WHOLE, RIGHT, OTHER_WHOLE], "its merges are not in the order of the tokens that they make"),
        ([LEFT, RIGHT, WHOLE], "it does not merge '<' and '\\|_'"),
    ],
)
def test_merges_that_scores_cannot_tell_are_refused(merges: list[list[str]], why: str) -> None:
    made = copy.deepcopy(gguf_models.tokenizer("plain"))
    core = json.loads(made.backend_tokenizer.to_str())
    core["model"]["merges"] += merges
    size = len(core["model"]["vocab"])
    core["model"]["vocab"] |= {token: size + place for place, token in enumerate(("<|", "|_", "<|_"))}
    made._tokenizer = Tokenizer.from_str(json.dumps(core))
    if not why:
        assert "<|_" in vocabulary(made, 640).metadata["tokenizer.ggml.tokens"]
        return
    with pytest.raises(ModelError, match=f"cannot be written as GGUF: {why}"):
        vocabulary(made, 640)


PARTS = (
    " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "\u00a0", "\u3000", "a", "I", "we'll", "'S", "’s", "don't",
    "Hello", "WORLD", "naïve", "café", "Ünïcödé", "ß", "7", "42", "4711", "1,000,000", "3.14", "½", "²", "٣", "x2y",
    "日本語", "русский", "العربية", "ไทย", "한국어", "🙂", "👩‍👩‍👧", "🇩🇪", "def f(x):", "return", "==", "!=", "...",
    "—", "_", "snake_case", "CamelCase", "<b>", "</s>", "{{", "#!", "http://a.b/c?d=e&f", "\\n", "@", "\u200b",
    "\ufffd",
)  # fmt: skip


def hard_texts(seed: int = 0) -> list[str]:
    """What pre-tokenizers cut in their own ways: each part alone, between letters and spaces, and at random."""
    draw = random.Random(seed)
    alone = [text for part in PARTS for text in (part, f" {part}", f"a{part}b", f"{part} {part}", f"{part}\n")]
    return alone + ["".join(draw.choices(PARTS, k=draw.randrange(2, 9))) for _ in range(150)]


@pytest.mark.parametrize("family", gguf_models.RELEASED)
def test_hard_texts_become_the_same_tokens_with_the_tokenizers_of_released_models(family: str, tmp_path: Path) -> None:
    folder = gguf_models.released(tmp_path / "model", family)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    runtime = Runtime(write_model(folder, tmp_path / "model.gguf"))
    special = [f"a{token} b\n{token}c" for token in tokenizer.get_added_vocab()]
    unequal = {}
    for text in [*hard_texts(), *special]:
        theirs = runtime.ask("/tokenize", content=text, add_special=True, parse_special=True)["tokens"]
        if (ours := tokenizer(text)["input_ids"]) != theirs:
            unequal[text] = tokenizer.convert_ids_to_tokens(ours), tokenizer.convert_ids_to_tokens(theirs)
    assert unequal == {}


def test_llama_2_puts_other_spaces_than_llama_cpp_and_is_refused(tmp_path: Path) -> None:
    folder = gguf_models.released(tmp_path / "model", "mistral")
    assert vocabulary(AutoTokenizer.from_pretrained(folder), 640).metadata["tokenizer.ggml.add_space_prefix"]
    gguf_models.changed(folder / "config.json", model_type="llama", architectures=["LlamaForCausalLM"])
    (folder / "tokenizer_config.json").write_text(json.dumps(gguf_models.LLAMA2))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("a</s>b") == ["▁a", "</s>", "b"]  # llama.cpp makes ▁b of the last
    with pytest.raises(ModelError, match="which put one before a text that follows a special token or begins with a"):
        vocabulary(tokenizer, 640)

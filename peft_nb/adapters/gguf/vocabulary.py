"""Tokenizers as GGUF metadata, where llama.cpp makes the same tokens of the same text.

llama.cpp knows pre-tokenizers by names and has their patterns in its own code, so a name is written only where the
pattern in ``tokenizer.json`` is the one behind it; it is never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from peft_nb.errors import ModelError

Settings = Mapping[str, Any]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BLANK = "▁"

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")


@dataclass(frozen=True)
class Pre:
    """One byte-level pre-tokenizer of llama.cpp.

    Attributes
    ----------
    steps : tuple
        The pre-tokenizer in ``tokenizer.json``, as :func:`steps` tells it.
    ignore_merges : bool
        Whether a word that is a token is never cut.
    """

    steps: tuple[str, ...]
    ignore_merges: bool = False


PRE = {
    "gpt-2": Pre(("words",)),
    "smollm": Pre(("digits", "words")),
    "llama-bpe": Pre((LLAMA3, "bytes"), ignore_merges=True),
    "qwen2": Pre((QWEN2, "bytes")),
}


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as llama.cpp reads it.

    Attributes
    ----------
    metadata : dict
        By keys of the file.
    notes : tuple of str
        What holds only for some texts.
    """

    metadata: dict[str, Any]
    notes: tuple[str, ...] = field(default=())


def vocabulary(tokenizer: Any, size: int, ends: list[int] | None = None) -> Vocabulary:
    """Say a tokenizer in llama.cpp's words.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        The tokenizer.
    size : int
        Rows of the embeddings; ids without a token are filled up.
    ends : list of int, optional
        What ends an answer besides the tokenizer's end token.

    Returns
    -------
    Vocabulary
        The metadata, and what does not hold for every text.

    Raises
    ------
    ModelError
        llama.cpp would make other tokens; one line.
    """
    if why := next(_unlike(tokenizer, size), ""):
        raise ModelError(f"the tokenizer cannot be written as GGUF: {why}; export it with as_='merged' or 'adapter'")
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    pieces = _sentencepiece(core)
    tokens = {number: token for token, number in core["model"]["vocab"].items()}
    added = {one["id"]: one for one in core["added_tokens"]}
    tokens |= {number: one["content"] for number, one in added.items()}
    control = set(tokenizer.all_special_ids)
    listed, types = [], []
    for number in range(size):
        one = added.get(number)
        listed.append(tokens.get(number, f"[PAD{number}]"))
        if number not in tokens:
            types.append(UNUSED)
        elif pieces and number == tokenizer.unk_token_id:
            types.append(UNKNOWN)
        elif pieces and _byte(listed[-1]):
            types.append(BYTE)
        elif one or number in control:
            types.append(CONTROL if number in control or (one and one["special"]) else USER_DEFINED)
        else:
            types.append(NORMAL)
    begins, finishes = _around(tokenizer) or (False, False)
    found: dict[str, Any] = {
        "ggml.model": "llama" if pieces else "gpt2",
        "ggml.pre": "default" if pieces else _pre(core),
        "ggml.tokens": listed,
        "ggml.token_type": types,
        "ggml.add_bos_token": begins,
        "ggml.add_eos_token": finishes,
    }
    if pieces:
        found |= {"ggml.scores": _scores(core, listed), "ggml.add_space_prefix": pieces == "prefixed"}
    else:
        found["ggml.merges"] = [" ".join(pair) for pair in _merges(core)]
    ids = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    for ours, theirs in ids.items():
        if (number := getattr(tokenizer, f"{ours}_token_id")) is not None:
            found[f"ggml.{theirs}_token_id"] = number
    other = [number for number in ends or () if number != tokenizer.eos_token_id]
    found |= {f"ggml.{name}_token_id": number for name, number in zip(("eot", "eom"), other, strict=False)}
    if template := _template(tokenizer):
        found["chat_template"] = template
    found = {f"tokenizer.{key}": value for key, value in found.items()}
    if _phi(core["added_tokens"]):
        found["general.name"] = "Phi-3"
    notes = ["of text in Unicode's NFC, which llama.cpp does not bring about"] * ("NFC" in str(core["normalizer"]))
    notes += [f"answers that end with {tokens.get(number, number)} go on" for number in other[2:]]
    return Vocabulary(found, tuple(notes))


def _template(tokenizer: Any) -> str:
    template = tokenizer.chat_template or ""
    return template.get("default", "") if isinstance(template, dict) else template


def _unlike(tokenizer: Any, size: int) -> Iterator[str]:
    """Say what llama.cpp does otherwise than a tokenizer, most important first."""
    if not getattr(tokenizer, "is_fast", False):
        yield "it has no tokenizer.json"
        return
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    model, added = core["model"], core["added_tokens"]
    if model["type"] != "BPE":
        yield f"llama.cpp's {model['type']} differs from that in tokenizer.json"
        return
    if tokenizer.eos_token_id is None:
        yield "it has no eos_token, and llama.cpp would take token 11 for it"
    if len(tokenizer) > size:
        yield f"it has {len(tokenizer):,} tokens, and the model {size:,} embeddings"
    own = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    yield from (f"its {name} is {model[name]!r}" for name in own if model.get(name))
    pieces = _sentencepiece(core)
    for one in added:
        if one["single_word"]:
            yield f"{one['content']} is found as a word alone"
        if one["lstrip"] or (one["rstrip"] and not _phi(added)):
            yield f"{one['content']} takes spaces beside it"
    if _around(tokenizer) is None:
        yield "it puts other tokens around a text than bos_token and eos_token"
    if pieces:
        yield from _pieces_unlike(core)
    elif model.get("byte_fallback"):
        kept = (core["pre_tokenizer"] or {}).get("prepend_scheme") in ("first", "always")  # Llama 2's, as of 2026
        also = ", which put one before a text that follows a special token or begins with a space too" if kept else ""
        yield f"it writes spaces otherwise than SentencePiece and llama.cpp{also}"
    elif not _pre(core):
        yield f"its pre-tokenizer is none of {', '.join(PRE)}"
    elif not _plain_normalizer(core["normalizer"]):
        yield f"its normalizer is {core['normalizer']['type']}"


def _phi(added: list[Settings]) -> bool:
    """Whether just those tokens take the spaces after them that do so where a model is called Phi-3."""
    names = {one["content"]: one["rstrip"] for one in added}
    keep = {"<unk>", "<s>", "<|endoftext|>"}
    return names.keys() > {"</s>", *keep} and all(strips == (name not in keep) for name, strips in names.items())


def _plain_normalizer(normalizer: Any) -> bool:
    return normalizer is None or normalizer["type"] == "NFC"


def _around(tokenizer: Any) -> tuple[bool, bool] | None:
    """Whether a text gets a first and a last token; nothing where it gets others."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for begins in (False, True):
        for finishes in (False, True):
            wanted = [*[tokenizer.bos_token_id] * begins, *bare, *[tokenizer.eos_token_id] * finishes]
            if full == wanted:
                return begins, finishes
    return None


# ---- bytes


def steps(pre: Any) -> tuple[str, ...] | None:
    """Tell a pre-tokenizer as words and patterns, or nothing where a step is of another kind."""
    found = []
    for one in _parts(pre, "pretokenizers"):
        if one["type"] == "ByteLevel" and not one["add_prefix_space"]:
            found.append("words" if one["use_regex"] else "bytes")
        elif one["type"] == "Digits" and one["individual_digits"]:
            found.append("digits")
        elif one["type"] == "Split" and one["behavior"] == "Isolated" and not one["invert"]:
            found.append(one["pattern"].get("Regex", ""))
        else:
            return None
    return tuple(found)


def _parts(step: Any, key: str) -> list[Any]:
    return [] if step is None else step[key] if step["type"] == "Sequence" else [step]


def _pre(core: Settings) -> str:
    """llama.cpp's name of a pre-tokenizer, or nothing."""
    found = Pre(steps(core["pre_tokenizer"]) or (), bool(core["model"].get("ignore_merges")))
    return next((name for name, known in PRE.items() if known == found), "")


def _merges(core: Settings) -> list[list[str]]:
    return [one.split(" ") if isinstance(one, str) else one for one in core["model"]["merges"]]


# ---- pieces of text, as SentencePiece has them


def _sentencepiece(core: Settings) -> str:
    """How spaces are written: ``prefixed`` if a text gets one before it, else ``plain``; nothing for byte-level BPE."""
    kinds = [one["type"] for one in _parts(core["normalizer"], "normalizers")]
    if not core["model"].get("byte_fallback"):
        return ""
    if core["pre_tokenizer"] == _SPACES and not kinds:
        return "plain"
    if core["pre_tokenizer"] not in (None, _SPLIT):
        return ""
    return {("Prepend", "Replace"): "prefixed", ("Replace",): "plain"}.get(tuple(kinds), "")


# Of Metaspace's ways to begin a text the one that llama.cpp knows: the others look whether a space is there already.
_SPACES = {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "never", "split": False}
# Gemma's, which cuts nothing: its normalizer has left no spaces.
_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def _byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _scores(core: Settings, tokens: list[str]) -> list[float]:
    """A score for each token, by which llama.cpp merges in the order of the merges."""
    place = {token: rank for rank, (token, _) in enumerate(groupby("".join(pair) for pair in _merges(core)))}
    return [-float(place.get(token, len(place))) for token in tokens]


def _pieces_unlike(core: Settings) -> Iterator[str]:
    """llama.cpp merges by the score of what comes out, transformers by the rank of the pair."""
    merges, vocabulary = _merges(core), core["model"]["vocab"]
    runs = [token for token, _ in groupby("".join(pair) for pair in merges)]
    if len(set(runs)) < len(runs):
        yield "its merges are not in the order of the tokens that they make, as SentencePiece's are"
    pairs, added = set(map(tuple, merges)), {one["content"] for one in core["added_tokens"]}
    for token in vocabulary:
        if token in added or _byte(token):
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary and (left, right) not in pairs:
                yield f"it does not merge {left!r} and {right!r}, as SentencePiece would"
                return
    if sum(map(_byte, vocabulary)) < 256:
        yield "it has not all 256 bytes as tokens"

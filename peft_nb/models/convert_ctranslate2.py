"""A Whisper model out of CTranslate2's file as a plain model folder, under transformers' names.

CTranslate2 lays queries, keys and values end to end, and gives keys a bias of zeros, which Whisper has not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.errors import ModelError
from peft_nb.events import Progress
from peft_nb.models import ctranslate2_file
from peft_nb.models.quiet import first_line, quiet

if TYPE_CHECKING:
    import numpy

WEIGHTS = "model.bin"
SECONDS, STEP = 30, 0.02  # of a clip, and between two timestamps
MULTILINGUAL = 51865  # entries of the vocabulary of those that know several languages, at least
HEAD = 64  # width of an attention head in all sizes of Whisper


def convert_ctranslate2(file: Path, folder: Path, progress: Progress) -> None:
    """Write a Whisper model as float32 safetensors, with its configurations, tokenizer and feature extractor.

    Parameters
    ----------
    file : Path
        ``model.bin``, or where it would lie beside its parts ``model.bin.part1`` and so on; CTranslate2's
        ``config.json`` and a ``tokenizer.json`` lie beside it.
    folder : Path
        Where to write; it must exist.
    progress : callable
        Told how far the conversion is.

    Raises
    ------
    ModelError
        The files cannot be read, or lack a weight.
    """
    from safetensors.numpy import save_file
    from transformers import WhisperForConditionalGeneration, WhisperTokenizer

    progress(0.0, f"reading {file.name}")
    try:
        parts = [file] if file.is_file() else sorted(file.parent.glob(f"{file.name}.part*"))
        kind, found = ctranslate2_file.read(parts)
        if kind != "WhisperSpec":
            raise ValueError(f"it holds a {kind}")
        state = _named(found)
        told = json.loads((file.parent / "config.json").read_text(encoding="utf-8"))
        written = json.loads((file.parent / "tokenizer.json").read_text(encoding="utf-8"))
        vocabulary, _ = state["model.decoder.embed_tokens.weight"].shape
        _add_timestamps(written, vocabulary)
        _add_first_merge(written["model"])
    except (LookupError, OSError, ValueError) as error:
        raise ModelError(f"cannot read {file.name} as a Whisper model: {first_line(error)}") from error
    progress(0.5, "saving")
    (folder / "tokenizer.json").write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")
    tokenizer = WhisperTokenizer.from_pretrained(folder, local_files_only=True, pad_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    ids = {one["content"]: one["id"] for one in written["added_tokens"]}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    _configure(state, told, ids, folder)
    with quiet():
        _, info = WhisperForConditionalGeneration.from_pretrained(
            folder, output_loading_info=True, local_files_only=True
        )
    if wrong := [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]:
        raise ModelError(f"cannot use {file.name}: it is no whole Whisper model, by {wrong[0]}")
    progress(1.0, f"converted {file.name}")


def _configure(
    state: Mapping[str, numpy.ndarray], told: Mapping[str, Any], ids: Mapping[str, int], folder: Path
) -> None:
    """Write the configurations of the model, of what it generates, and of the features that it takes."""
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor

    encoder, decoder = "model.encoder", "model.decoder"
    width, bins, _ = state[f"{encoder}.conv1.weight"].shape
    sizes = {"attention_heads": width // HEAD, "ffn_dim": state[f"{encoder}.layers.0.fc1.weight"].shape[0]}
    special = {
        "pad_token_id": ids["<|endoftext|>"],
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|endoftext|>"],
        "decoder_start_token_id": ids["<|startoftranscript|>"],
    }
    config = WhisperConfig(
        vocab_size=state[f"{decoder}.embed_tokens.weight"].shape[0],
        num_mel_bins=bins,
        d_model=width,
        max_source_positions=state[f"{encoder}.embed_positions.weight"].shape[0],
        max_target_positions=state[f"{decoder}.embed_positions.weight"].shape[0],
        encoder_layers=_layers(state, encoder),
        decoder_layers=_layers(state, decoder),
        **{f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in sizes.items()},
        **special,
    )
    config.architectures = ["WhisperForConditionalGeneration"]
    config.save_pretrained(folder)
    several = config.vocab_size >= MULTILINGUAL
    languages = {name: number for name, number in ids.items() if number in {*told.get("lang_ids", ())}}
    generation: dict[str, Any] = {
        **special,
        "max_length": config.max_target_positions,
        "suppress_tokens": told["suppress_ids"],
        "begin_suppress_tokens": told["suppress_ids_begin"],
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "return_timestamps": False,
        "max_initial_timestamp_index": 50,
        "alignment_heads": told["alignment_heads"],
        "is_multilingual": several,
    }
    if several:
        tasks = {name: ids[f"<|{name}|>"] for name in ("transcribe", "translate")}
        generation |= {"lang_to_id": languages, "task_to_id": tasks}
    GenerationConfig(**generation).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=bins).save_pretrained(folder)


def _add_timestamps(written: dict[str, Any], vocabulary: int) -> None:
    """Give the tokenizer the tokens of times that the model knows and its file may lack: 0 to 30 s."""
    first = 1 + max(one["id"] for one in written["added_tokens"])
    times = [f"<|{number * STEP:.2f}|>" for number in range(round(SECONDS / STEP) + 1)]
    if first + len(times) == vocabulary:
        plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        added = ({"id": first + place, "content": time, **plain} for place, time in enumerate(times))
        written["added_tokens"] += added
    elif first != vocabulary:
        raise ValueError(f"its tokenizer has {first:,} tokens and the model {vocabulary:,}")


def _add_first_merge(model: dict[str, Any]) -> None:
    """Give a tokenizer its first merge, of a space and a t, which copies of the multilingual one lack.

    Its list of merges has no header, and was read as if it had one. Without it " there" becomes two tokens, where the
    model has learned, and writes, one.
    """
    pair = ["\u0120", "t"]
    first = model["merges"][0]
    if "".join(pair) in model["vocab"] and (first.split() if isinstance(first, str) else first) != pair:
        model["merges"].insert(0, " ".join(pair) if isinstance(first, str) else pair)


def _layers(state: Mapping[str, numpy.ndarray], side: str) -> int:
    prefix = f"{side}.layers."
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in state if name.startswith(prefix))


def _named(found: Mapping[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    """The weights under transformers' names, float32; the output head is tied to the embeddings."""
    import numpy

    def take(name: str) -> numpy.ndarray:
        return numpy.ascontiguousarray(found[name], "float32")

    state: dict[str, numpy.ndarray] = {}

    def put(to: str, of: str, names: tuple[str, str] = ("weight", "bias")) -> None:
        for ours, theirs in zip(("weight", "bias"), names, strict=True):
            state[f"{to}.{ours}"] = take(f"{of}/{theirs}")

    def norm(to: str, of: str) -> None:
        put(to, of, ("gamma", "beta"))

    def part(to: str, of: str, names: tuple[str, ...]) -> None:
        weights, biases = (numpy.split(take(f"{of}/{kind}"), len(names)) for kind in ("weight", "bias"))
        for name, weight, bias in zip(names, weights, biases, strict=True):
            state[f"{to}.{name}.weight"] = weight
            if name != "k_proj":
                state[f"{to}.{name}.bias"] = bias
            elif bias.any():
                raise ValueError("its keys have a bias")

    for side in ("encoder", "decoder"):
        ours = f"model.{side}"
        layers = {name.split("/")[1] for name in found if name.startswith(f"{side}/layer_")} - {"layer_norm"}
        for number in range(len(layers)):
            to, of = f"{ours}.layers.{number}", f"{side}/layer_{number}"
            norm(f"{to}.self_attn_layer_norm", f"{of}/self_attention/layer_norm")
            part(f"{to}.self_attn", f"{of}/self_attention/linear_0", ("q_proj", "k_proj", "v_proj"))
            put(f"{to}.self_attn.out_proj", f"{of}/self_attention/linear_1")
            if side == "decoder":
                norm(f"{to}.encoder_attn_layer_norm", f"{of}/attention/layer_norm")
                put(f"{to}.encoder_attn.q_proj", f"{of}/attention/linear_0")
                part(f"{to}.encoder_attn", f"{of}/attention/linear_1", ("k_proj", "v_proj"))
                put(f"{to}.encoder_attn.out_proj", f"{of}/attention/linear_2")
            norm(f"{to}.final_layer_norm", f"{of}/ffn/layer_norm")
            put(f"{to}.fc1", f"{of}/ffn/linear_0")
            put(f"{to}.fc2", f"{of}/ffn/linear_1")
        norm(f"{ours}.layer_norm", f"{side}/layer_norm")
        state[f"{ours}.embed_positions.weight"] = take(f"{side}/position_encodings/encodings")
    for name in ("conv1", "conv2"):
        put(f"model.encoder.{name}", f"encoder/{name}")
    state["model.decoder.embed_tokens.weight"] = take("decoder/embeddings/weight")
    return state

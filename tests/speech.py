"""Clips and speech models for tests, so small that a run on them takes a second or two."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy

RATE = 16_000
WORDS = {"low": 220.0, "mid": 440.0, "high": 880.0}


def sound(text: str, seed: int = 0, rate: int = RATE, seconds: float = 0.25) -> numpy.ndarray:
    """A tone for each word, with some noise; float32 from -1 to 1."""
    draw = numpy.random.default_rng(seed)
    times = numpy.arange(round(rate * seconds)) / rate
    tones = [numpy.sin(2 * numpy.pi * WORDS[word] * times) for word in text.split()]
    whole = numpy.concatenate(tones)
    return (0.4 * whole + 0.01 * draw.standard_normal(len(whole))).astype("float32")


def rows(count: int) -> list[dict[str, Any]]:
    """As many clips, each with its text of one to three words."""
    found = []
    for number in range(count):
        draw = random.Random(number)
        text = " ".join(draw.choice([*WORDS]) for _ in range(1 + number % 3))
        found.append({"audio": {"array": sound(text, number), "sampling_rate": RATE}, "text": text})
    return found


def write(path: Path, array: numpy.ndarray, rate: int = RATE) -> Path:
    """Write a clip as a file of the kind that its suffix says."""
    import soundfile

    soundfile.write(path, array, rate)
    return path


def folder(path: Path, count: int) -> Path:
    """The same as files, each with its text in a file of the same name."""
    path.mkdir(exist_ok=True)
    for number, row in enumerate(rows(count)):
        write(path / f"{number:02}.wav", row["audio"]["array"])
        (path / f"{number:02}.txt").write_text(row["text"])
    return path


def speech_model(path: Path, frames: int = 200, tokens: int = 32) -> Path:
    """A random Whisper of two blocks on either side, for clips of a fifteenth of the usual 30 s and short texts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    path.mkdir(parents=True, exist_ok=True)
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"]
    special += ["<|startoflm|>", "<|startofprev|>", "<|nocaptions|>", "<|notimestamps|>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([f" {word} {word}" for word in WORDS], trainer)
    core.add_special_tokens(special)
    core.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "WhisperTokenizer"}))
    tokenizer = WhisperTokenizer.from_pretrained(path)
    tokenizer.save_pretrained(path)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in special}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    ends = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end, "decoder_start_token_id": start}
    sizes = {"layers": 2, "attention_heads": 2, "ffn_dim": 64}
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        num_mel_bins=16,
        max_source_positions=frames // 2,
        max_target_positions=tokens,
        init_std=0.2,
        **{f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in sizes.items()},
        **ends,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        **ends,
        max_length=tokens,
        suppress_tokens=[ids["<|startoflm|>"]],
        begin_suppress_tokens=[end],
        no_timestamps_token_id=ids["<|notimestamps|>"],
        is_multilingual=True,
        lang_to_id={name: ids[name] for name in ("<|en|>", "<|de|>")},
        task_to_id={name: ids[f"<|{name}|>"] for name in ("transcribe", "translate")},
    )
    model.save_pretrained(path)
    WhisperFeatureExtractor(feature_size=16, chunk_length=frames // 100).save_pretrained(path)
    return path

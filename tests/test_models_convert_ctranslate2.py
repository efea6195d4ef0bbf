"""Whisper models out of CTranslate2's files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest

from peft_nb.errors import ModelError
from peft_nb.models import ALIASES, bundled
from peft_nb.models import convert_ctranslate2 as conversion
from peft_nb.models.convert_ctranslate2 import convert_ctranslate2
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from tests.test_models_ctranslate2_file import content


def nothing(share: float, text: str) -> None:
    pass


def as_ctranslate2(folder: Path, into: Path) -> Path:
    """Write a Whisper model as CTranslate2 does; gives its ``model.bin``."""
    model = load(resolve(str(folder)), kind="speech").model
    state = {name.removeprefix("model."): one.numpy() for name, one in model.state_dict().items()}
    found: dict[str, numpy.ndarray] = {}

    def put(to: str, *of: str, names: tuple[str, str] = ("weight", "bias")) -> None:
        for ours, theirs in zip(("weight", "bias"), names, strict=True):
            parts = [state.get(f"{one}.{ours}", numpy.zeros(len(state[f"{one}.weight"]), "float32")) for one in of]
            found[f"{to}/{theirs}"] = numpy.concatenate(parts)

    for side in ("encoder", "decoder"):
        for number in range(2):
            to, of = f"{side}/layer_{number}", f"{side}.layers.{number}"
            put(f"{to}/self_attention/layer_norm", f"{of}.self_attn_layer_norm", names=("gamma", "beta"))
            put(f"{to}/self_attention/linear_0", *(f"{of}.self_attn.{one}_proj" for one in "qkv"))
            put(f"{to}/self_attention/linear_1", f"{of}.self_attn.out_proj")
            if side == "decoder":
                put(f"{to}/attention/layer_norm", f"{of}.encoder_attn_layer_norm", names=("gamma", "beta"))
                put(f"{to}/attention/linear_0", f"{of}.encoder_attn.q_proj")
                put(f"{to}/attention/linear_1", *(f"{of}.encoder_attn.{one}_proj" for one in "kv"))
                put(f"{to}/attention/linear_2", f"{of}.encoder_attn.out_proj")
            put(f"{to}/ffn/layer_norm", f"{of}.final_layer_norm", names=("gamma", "beta"))
            put(f"{to}/ffn/linear_0", f"{of}.fc1")
            put(f"{to}/ffn/linear_1", f"{of}.fc2")
        put(f"{side}/layer_norm", f"{side}.layer_norm", names=("gamma", "beta"))
        found[f"{side}/position_encodings/encodings"] = state[f"{side}.embed_positions.weight"]
    for one in ("conv1", "conv2"):
        put(f"encoder/{one}", f"encoder.{one}")
    found["decoder/embeddings/weight"] = state["decoder.embed_tokens.weight"]
    into.mkdir()
    told = {"suppress_ids": [1], "suppress_ids_begin": [2], "lang_ids": [], "alignment_heads": [[0, 0]]}
    (into / "config.json").write_text(json.dumps(told))
    (into / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    (into / "model.bin").write_bytes(content("WhisperSpec", found))
    return into / "model.bin"


def test_a_model_that_was_written_for_ctranslate2_comes_back(
    tmp_path: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "HEAD", 16)
    file, to = as_ctranslate2(speech, tmp_path / "ct2"), tmp_path / "out"
    to.mkdir()
    convert_ctranslate2(file, to, nothing)
    was, found = (load(resolve(str(one)), kind="speech") for one in (speech, to))
    state = found.model.state_dict()
    assert state.keys() == was.model.state_dict().keys()
    assert all((one == state[name]).all() for name, one in was.model.state_dict().items())
    assert found.tokenizer("low mid").input_ids == was.tokenizer("low mid").input_ids
    assert found.features.feature_size == 16
    assert found.model.generation_config.suppress_tokens == [1]
    assert found.model.config.decoder_start_token_id == was.model.config.decoder_start_token_id


def test_another_file_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    for held, why in (
        (b"hello, world", "no model of CTranslate2"),
        (content("TransformerSpec", {}), "TransformerSpec"),
    ):
        file.write_bytes(held)
        with pytest.raises(ModelError, match=rf"^cannot read model.bin as a Whisper model: it .*{why}") as caught:
            convert_ctranslate2(file, tmp_path, nothing)
        assert "\n" not in str(caught.value)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["whisper-tiny-en", "whisper-base"])
def test_the_aliases_are_whole_and_write_words_as_the_model_does(name: str) -> None:
    alias = ALIASES[name]
    bundled.fetch(alias, nothing)
    base = load(resolve(name), kind="speech")
    assert sum(one.numel() for one in base.model.parameters()) == alias.parameters
    assert len(base.tokenizer) == base.model.config.vocab_size
    assert base.tokenizer.convert_ids_to_tokens(len(base.tokenizer) - 1) == "<|30.00|>"
    assert len(base.tokenizer(" the time", add_special_tokens=False).input_ids) == 2
    assert base.model.generation_config.is_multilingual == (name == "whisper-base")

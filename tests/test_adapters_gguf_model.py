"""Plain model folders as GGUF files, which llama.cpp runs with the same results."""

from __future__ import annotations

from pathlib import Path

import pytest

from peft_nb.adapters.gguf import prove, write_model
from peft_nb.adapters.gguf.model import notes
from peft_nb.errors import ModelError
from peft_nb.models import ALIASES, bundled
from tests import gguf_models


@pytest.mark.parametrize("family", gguf_models.FAMILIES)
def test_llama_cpp_does_what_transformers_does(family: str, tmp_path: Path) -> None:
    folder = gguf_models.folder(tmp_path / "model", family)
    file = write_model(folder, tmp_path / "model.gguf", outtype="f16")
    checks = prove(file, folder).table.set_index("check")["found"]
    assert checks["tokens of texts"] == checks["chat template"] == "all equal"
    assert checks["equal greedy tokens"] == "100.0%"
    assert float(checks["KL divergence, nats per token"]) < 1e-4


def test_a_file_holds_matrices_as_told_and_the_rest_in_float32(tmp_path: Path) -> None:
    folder = gguf_models.folder(tmp_path / "model", "qwen2", intermediate_size=112)
    told: list[float] = []
    file = write_model(folder, tmp_path / "m.gguf", outtype="q8_0", progress=lambda share, _: told.append(share))
    shown = gguf_models.shown(file)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert (shown["general.architecture"], shown["general.file_type"], shown["qwen2.vocab_size"]) == ("qwen2", 7, 640)
    kinds = {
        name: shown[f"blk.0.{name}"].tensor_type.name for name in ("attn_q.weight", "attn_q.bias", "attn_norm.weight")
    }
    assert kinds == {"attn_q.weight": "Q8_0", "attn_q.bias": "F32", "attn_norm.weight": "F32"}
    assert shown["blk.0.ffn_down.weight"].tensor_type.name == "F16"  # 112 numbers are no blocks of 32
    assert "output.weight" in shown
    assert "output.weight" not in gguf_models.shown(
        write_model(gguf_models.folder(tmp_path / "tied", "qwen3"), tmp_path / "t.gguf")
    )


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    folder = gguf_models.folder(tmp_path / "model", "llama")
    with pytest.raises(ModelError, match=r"^outtype: 'f61' is not one of f32, .*; did you mean 'f16'\?$"):
        write_model(folder, tmp_path / "m.gguf", outtype="f61")
    gguf_models.changed(folder / "config.json", hidden_act="relu")
    with pytest.raises(ModelError, match=r"^LlamaForCausalLM with hidden_act: relu is computed otherwise"):
        write_model(folder, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_what_equality_is_limited_to_is_told(tmp_path: Path) -> None:
    (window,) = notes(gguf_models.folder(tmp_path / "mistral", "mistral"))
    assert window.startswith("of texts up to 256 tokens, the model's sliding window")
    assert notes(gguf_models.folder(tmp_path / "llama", "llama")) == ()


@pytest.mark.exhaustive
def test_the_default_base_agrees_in_eight_bits(tmp_path: Path) -> None:
    folder = bundled.fetch(ALIASES["smollm2-135m"], lambda share, what: None)
    file = write_model(folder, tmp_path / "smollm2.gguf", outtype="q8_0")
    checks = prove(file, folder, outtype="q8_0").table.set_index("check")["found"]
    assert checks["tokens of texts"] == checks["chat template"] == "all equal"
    assert float(checks["KL divergence, nats per token"]) < 0.01

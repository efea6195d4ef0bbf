"""The gate lets nothing through that llama.cpp answers otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from peft_nb.adapters.gguf import architectures, prove, write_model
from peft_nb.adapters.gguf.proof import Runtime
from peft_nb.errors import MergeError
from tests import gguf_models


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_models.folder(tmp_path_factory.mktemp("proof") / "model", "llama")


def test_weights_in_another_order_are_found(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(architectures.ARCHITECTURES["LlamaForCausalLM"], rows=lambda config, name, tensor: tensor)
    monkeypatch.setitem(architectures.ARCHITECTURES, "LlamaForCausalLM", wrong)
    file = write_model(folder, tmp_path / "wrong.gguf")
    with pytest.raises(MergeError, match=r"^llama.cpp does otherwise \(KL divergence .*, more than 0.001"):
        prove(file, folder)


def test_another_chat_template_is_found_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    other = gguf_models.folder(tmp_path / "other", "llama")
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_end|>\n", "<|im_end|> \n"))
    file = write_model(other, tmp_path / "other.gguf")
    with pytest.raises(MergeError, match=r"^llama.cpp does otherwise \(chat template\), so nothing is kept$") as error:
        prove(file, folder)
    assert "unequal: " in error.value.table


def test_another_tokenizer_is_found(folder: Path, tmp_path: Path) -> None:
    other = gguf_models.folder(tmp_path / "other", "llama")
    gguf_models.tokenizer("smollm").save_pretrained(other)
    file = write_model(other, tmp_path / "other.gguf")
    with pytest.raises(MergeError, match=r"^llama.cpp does otherwise \(tokens of texts\), so nothing is kept$"):
        prove(file, folder)


@pytest.mark.parametrize(
    ("outtype", "allowed"), [("q4_0", "no bound"), ("bf16", "up to 0.005"), ("q8_0", "up to 0.01")]
)
def test_quantized_files_show_what_they_lose(folder: Path, tmp_path: Path, outtype: str, allowed: str) -> None:
    file = write_model(folder, tmp_path / "small.gguf", outtype=outtype)
    proof = prove(file, folder, [[1, 70, 90, 100, 33, 45, 200, 301]], outtype=outtype, notes=("of this",))
    row = proof.table.set_index("check").loc["KL divergence, nats per token"]
    assert row["allowed"] == allowed
    assert float(row["found"]) > 1e-6
    assert " tokens, " in row["compared"]
    assert proof.told.endswith("; of this")
    assert json.loads(proof.written())["checks"][0] == {
        "check": "tokens of texts", "compared": "8 texts", "found": "all equal", "allowed": "all equal",
    }  # fmt: skip


def test_the_runtime_answers_nobody_without_its_key(folder: Path, tmp_path: Path) -> None:
    from urllib.error import HTTPError

    runtime = Runtime(write_model(folder, tmp_path / "one.gguf"))
    assert runtime.ask("/tokenize", content="a")["tokens"]
    assert runtime._server.listening_address.startswith("http://127.0.0.1:")
    runtime._key = "other"
    with pytest.raises(HTTPError, match="401"):
        runtime.ask("/tokenize", content="a")


def test_a_file_that_llama_cpp_cannot_load_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(MergeError, match=r"^llama.cpp cannot load broken.gguf: [^\n]*$"):
        Runtime(tmp_path / "broken.gguf")

"""A run as one GGUF file: proven, kept with its proof, or refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from peft_nb.adapters.exporters import EXPORTERS, Exportable, Exported
from peft_nb.adapters.gguf import proof
from peft_nb.errors import MergeError, RunError, StoreError
from peft_nb.runs.run import Run
from peft_nb.spec import RunSpec
from tests import gguf_models


def test_a_run_is_written_with_its_proof(finished: Run, tmp_path: Path) -> None:
    told = []
    made = finished.export(tmp_path / "desk.gguf", "gguf", progress=lambda share, what: told.append(what))
    file = Path(made)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["desk.gguf", "desk.proof.json"]
    assert gguf_models.shown(file)["general.architecture"] == "llama"
    kept = json.loads((tmp_path / "desk.proof.json").read_text())
    checks = {row["check"]: row for row in kept["checks"]}
    assert checks["tokens of texts"]["found"] == checks["chat template"]["found"] == "all equal"
    assert float(checks["KL divergence, nats per token"]["found"]) <= 1e-3
    first = repr(made).splitlines()[0]
    assert first.startswith(f"{finished.id} is exported to {file}: f16, ")
    assert "run by llama.cpp (xllamacpp " in first
    assert "merged with a KL divergence from the adapter of " in first
    assert "equal greedy tokens" in made._repr_html_()  # type: ignore[union-attr]
    assert "comparing answers of llama.cpp with the model's" in told
    with pytest.raises(StoreError, match=r"desk.gguf: it exists already; choose another name$"):
        finished.export(file, "gguf")


def test_what_answers_otherwise_is_not_kept(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(proof.BOUNDS, "q8_0", 1e-9)
    why = (
        r"more than 1e-09; q8_0 costs the base alone [\d.e-]+\), so nothing is kept; --outtype f16 or bf16 rounds less$"
    )
    with pytest.raises(MergeError, match=why) as error:
        finished.export(tmp_path / "desk.gguf", "gguf", outtype="q8_0")
    assert "up to 1e-09" in error.value.table
    assert "KL divergence of the base alone in q8_0" in error.value.table
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def rounded(learn: Callable[..., Run]) -> Run:
    """A run in bfloat16, which rounds in every layer."""
    return learn("lora", dtype="bfloat16")


@pytest.mark.parametrize(("as_", "options"), [("gguf", {}), ("gguf", {"outtype": "q8_0"}), ("lora-gguf", {})])
def test_a_run_in_bfloat16_is_held_to_its_adapter_and_not_to_its_rounding(
    rounded: Run, as_: str, options: dict[str, str], tmp_path: Path
) -> None:
    made = rounded.export(tmp_path / "desk.gguf", as_, **options)
    assert isinstance(made, Exported)
    found = made.table.set_index("check")["found"]  # type: ignore[union-attr]
    bound = proof.BOUNDS[options.get("outtype", "f16")]
    assert float(found["KL divergence, nats per token"]) <= bound
    alone = [float(value) for name, value in found.items() if "of the base alone" in str(name)]
    assert [0 < one < 2 * bound for one in alone] == [True] * ("outtype" in options)
    if as_ == "gguf":
        merged = re.search(r"KL divergence from the adapter of (\S+) nats per token", repr(made))
        assert merged
        assert float(merged[1]) < 1e-5


def test_without_llama_cpp_the_line_says_that_nothing_is_proven(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = util.find_spec
    monkeypatch.setattr(proof.util, "find_spec", lambda name: None if name == "xllamacpp" else find(name))
    made = finished.export(tmp_path / "desk.gguf", "gguf", outtype="q4_0")
    assert "not proven: llama.cpp is not installed; pip install 'peft_nb[export]' and export it again" in repr(made)
    assert json.loads((tmp_path / "desk.proof.json").read_text())["checks"] == []


def given(config: dict[str, Any], **fields: Any) -> Exportable:
    def refuse(*_: object) -> Any:
        raise AssertionError("nothing is loaded")

    return Exportable("a", RunSpec(data="a", **fields), {}, refuse, refuse, refuse, config=lambda: config)


@pytest.mark.parametrize(
    ("fields", "config", "why"),
    [
        ({"method": "prompt"}, {}, "method: prompt cannot be merged into weights; --as adapter writes it as it is"),
        (
            {"task": "classification"},
            {},
            "task: classification trains a head, which GGUF files do not hold; --as a",
        ),
        ({}, {"architectures": ["BloomForCausalLM"]}, "BloomForCausalLM cannot be written as GGUF yet, but LlamaForCa"),
        ({}, {}, ""),
    ],
)
def test_obstacles_are_found_before_anything_is_loaded(
    fields: dict[str, Any], config: dict[str, Any], why: str
) -> None:
    assert EXPORTERS["gguf"].obstacle(given(config, **fields)).startswith(why)
    assert bool(EXPORTERS["ollama"].obstacle(given(config, **fields))) == bool(why)


def test_outtypes_are_checked_first(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^outtype: 'q8' is not one of f32, f16, bf16, q8_0, .*did you mean 'q8_0'"):
        finished.export(tmp_path / "desk.gguf", "gguf", outtype="q8")

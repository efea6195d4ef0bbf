from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peft_nb.adapters.exporters.gguf_file import cannot, kept
from peft_nb.adapters.gguf import Proof
from peft_nb.errors import StoreError
from peft_nb.events import silent
from peft_nb.runs.run import Run
from peft_nb.spec import RunSpec


def test_obstacles_are_of_the_task_then_of_the_adapter_then_of_the_architecture(finished: Run) -> None:
    run = finished._exportable({}, silent)
    assert cannot(run, str) == ""
    assert cannot(run, lambda: "not this one") == "not this one"
    classifier = replace(run, spec=RunSpec(data="a", task="classification"))
    assert "trains a head, which GGUF files do not hold" in cannot(classifier, pytest.fail)
    other = replace(run, config=lambda: {"architectures": ["BloomForCausalLM"]})
    assert cannot(other, str).startswith("BloomForCausalLM cannot be written as GGUF")


def test_a_file_is_kept_with_its_proof_or_not_at_all(finished: Run, tmp_path: Path) -> None:
    run, file = finished._exportable({}, silent), tmp_path / "one.gguf"

    def refuse(staging: Path) -> Any:
        staging.write_bytes(b"half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        kept(run, file, "f16", refuse)
    assert list(tmp_path.iterdir()) == []
    file.write_bytes(b"other")
    with pytest.raises(StoreError, match=r"one.gguf: it exists already; choose another name$"):
        kept(run, file, "f16", pytest.fail)

    def write(staging: Path) -> Proof:
        staging.write_bytes(bytes(2_000_000))
        return Proof(None, "not proven")

    made = kept(run, tmp_path / "two.gguf", "f16", write)
    assert repr(made) == f"{finished.id} is exported to {tmp_path / 'two.gguf'}: f16, 2.0 MB; not proven"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.gguf", "two.gguf", "two.proof.json"]

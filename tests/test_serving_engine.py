"""What all engines have in common, by the one that can run here."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from peft_nb.errors import ModelError
from peft_nb.events import silent
from peft_nb.serving import adapter_gguf
from peft_nb.serving.engine import Load
from peft_nb.serving.llama_cpp import LlamaCpp


def test_a_file_that_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("no model")
    engine = LlamaCpp(Load(str(tmp_path / "model.gguf"), (), slots=1, context=64, threads=1))
    with pytest.raises(ModelError, match=r"llama\.cpp cannot load model\.gguf"):
        engine.wait()
    assert not engine.alive


def test_an_engine_ends_with_whoever_started_it(base: Path) -> None:
    engine = LlamaCpp(Load(str(adapter_gguf.base_file(base, silent)), (), slots=1, context=64, threads=1))
    engine.wait()
    assert engine.alive
    assert psutil.Process(engine.process.pid).environ()["OMP_WAIT_POLICY"] == "passive"
    assert engine.process.stdin
    engine.process.stdin.close()  # as it does where a process is killed
    until = time.monotonic() + 10
    while engine.alive and time.monotonic() < until:
        time.sleep(0.02)
    assert not engine.alive

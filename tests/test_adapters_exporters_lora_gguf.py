"""A run's LoRA as a GGUF file on its base's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from peft_nb.errors import RunError
from peft_nb.runs.run import Run
from tests import gguf_models


def test_a_lora_is_written_with_its_proof(finished: Run, tmp_path: Path) -> None:
    made = finished.export(tmp_path / "desk-lora.gguf", "lora-gguf")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["desk-lora.gguf", "desk-lora.proof.json"]
    shown = gguf_models.shown(Path(made))
    assert (shown["general.type"], shown["adapter.lora.alpha"]) == (
        "adapter",
        finished.model.peft_config["default"].lora_alpha,
    )
    assert "LoRA for its base's GGUF file" in repr(made)
    assert "equal greedy tokens" in repr(made)


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("dora", "DoRA; --as gguf merges it"),
        ("prompt", "adapter of PEFT's type PROMPT_TUNING; --as adapter writes it as it is"),
    ],
)
def test_other_adapters_are_refused_before_any_work(
    learn: Callable[..., Run], method: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=f"^llama.cpp's LoRA files hold no {why}$"):
        learn(method).export(tmp_path / "desk.gguf", "lora-gguf")
    assert list(tmp_path.iterdir()) == []

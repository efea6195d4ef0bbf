"""What is said where there is no ONNX; optimum itself is not there to be tested."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from peft_nb.adapters.exporters import Exportable
from peft_nb.adapters.exporters.onnx import EXPORTER
from peft_nb.spec import RunSpec


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("lora", "onnx: optimum writes it, and is not installed; pip install optimum-onnx, or --as merged for "),
        ("prompt", "method: prompt cannot be merged, and ONNX takes no adapters; --as adapter writes it"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_loaded(method: str, told: str) -> None:
    run = Exportable("one", RunSpec(data="a", method=method), {}, pytest.fail, pytest.fail, pytest.fail)
    assert EXPORTER.obstacle(run).startswith(told)


def test_optimum_without_its_part_for_onnx_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "optimum").mkdir()
    (tmp_path / "optimum" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    run = Exportable("one", RunSpec(data="a"), {}, pytest.fail, pytest.fail, pytest.fail)
    assert "pip install optimum-onnx" in EXPORTER.obstacle(run)
    monkeypatch.delitem(sys.modules, "optimum", raising=False)

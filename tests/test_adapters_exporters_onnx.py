"""What is said where there is no ONNX; optimum itself is not there to be tested."""

from __future__ import annotations

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

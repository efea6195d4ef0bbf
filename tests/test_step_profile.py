"""benchmarks/step_profile.py: which kind an operation of a step is, and what a product costs."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import step_profile


def event(name: str, *shapes: list[int]) -> Any:
    """Stand for an operation of the profiler."""
    return SimpleNamespace(name=name, input_shapes=list(shapes))


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        (event("aten::mm", [100, 576], [576, 1536]), "products of the base, forward and backward"),
        (event("aten::mm", [100, 576], [576, 16]), "thin products of LoRA"),
        (event("aten::addmm", [], [100, 48], [48, 576]), "thin products of LoRA"),
        (event("aten::mm", [100, 576], [576, 49152]), "the head's products"),
        (event("aten::_softmax", [100, 49152], []), "loss over the vocabulary"),
        (event("aten::_scaled_dot_product_flash_attention_for_cpu", [1, 9, 100, 64]), "attention"),
        (event("aten::bmm", [9, 100, 64], [9, 64, 100]), "attention"),
        (event("aten::copy_", [100, 576]), "casts and copies"),
        (event("aten::mul", [100, 576]), "norms, rotary, activations, sums"),
        (event("LoraProducts"), "Python and the rest"),
    ],
)
def test_kinds(operation: Any, kind: str) -> None:
    assert step_profile.kind(operation, 49152) == kind
    assert kind in step_profile.KINDS


def test_operations_of_a_product() -> None:
    assert step_profile.flops(event("aten::addmm", [576], [100, 16], [16, 576])) == 2 * 100 * 16 * 576
    assert step_profile.flops(event("aten::bmm", [9, 100, 64], [9, 64, 100])) == 2 * 9 * 100 * 64 * 100
    assert step_profile.flops(event("aten::mul", [100, 16], [100, 16])) == 0

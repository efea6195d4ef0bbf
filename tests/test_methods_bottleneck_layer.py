"""A frozen module with bottlenecks behind it or beside it, alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from peft_nb.methods.bottleneck.layer import (
    ACTIVATIONS,
    BottleneckLayer,
    ParallelBottleneck,
    SerialBottleneck,
    last_linear,
    width,
)
from peft_nb.methods.bottleneck.model import BottleneckConfig

X = torch.linspace(-1, 1, 12).reshape(3, 4)


def drawn(layer: BottleneckLayer, adapter: str = "default") -> BottleneckLayer:
    torch.manual_seed(1)
    for kind in (layer.bottleneck_down, layer.bottleneck_up):
        for parameter in kind[adapter].parameters():
            nn.init.normal_(parameter)
    return layer


def bottleneck(layer: BottleneckLayer, x: torch.Tensor, activation: str) -> torch.Tensor:
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    return ACTIVATIONS[activation](x @ down.weight.T + down.bias) @ up.weight.T + up.bias


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_serial_one_reads_what_the_layer_puts_out(activation: str) -> None:
    base = nn.Linear(4, 4)
    config = BottleneckConfig(reduction_factor=2, non_linearity=activation, scaling=3)
    layer = SerialBottleneck(base, "default", config)
    assert torch.equal(layer(X), base(X))
    drawn(layer)
    torch.testing.assert_close(layer(X), base(X) + 3 * bottleneck(layer, base(X), activation))
    layer.enable_adapters(False)
    assert torch.equal(layer(X), base(X))


def test_a_parallel_one_reads_what_the_module_reads() -> None:
    class Output(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
            return self.dense(x) if residual is None else self.dense(x) + residual

    base, config = Output(), BottleneckConfig(placement="parallel", reduction_factor=2)
    layer = drawn(ParallelBottleneck(base, "default", config))
    torch.testing.assert_close(layer(X), base(X) + 4 * bottleneck(layer, X, "relu"))
    residual = X + 1  # what the first half has read
    torch.testing.assert_close(layer(X, residual), base(X, residual) + 4 * bottleneck(layer, residual, "relu"))


def test_widths_are_of_the_last_linear_layer() -> None:
    assert width(nn.Linear(2, 5)) == 5
    assert width(Conv1D(7, 2)) == 7
    assert width(nn.ReLU()) == width(None) == 0
    block = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU())
    assert last_linear(block) is block[2]
    assert last_linear(block[0]) is block[0]
    assert last_linear(nn.Sequential(nn.ReLU())) is None

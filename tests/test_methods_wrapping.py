"""What tuners of our own that wrap modules have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from peft_nb.methods.bitfit.layer import BitFitLayer
from peft_nb.methods.bitfit.model import BitFitConfig, BitFitModel
from peft_nb.methods.bottleneck.layer import ParallelBottleneck, SerialBottleneck
from peft_nb.methods.bottleneck.model import BottleneckConfig, BottleneckModel
from peft_nb.methods.full.layer import FullLayer
from peft_nb.methods.full.model import FullConfig
from peft_nb.methods.wrapping import WrappingTuner
from tests import tiny


@pytest.mark.parametrize(("config", "tuner"), [(BitFitConfig, BitFitModel), (BottleneckConfig, BottleneckModel)])
def test_a_module_is_wrapped_once_and_holds_every_adapter(config: Any, tuner: type[WrappingTuner]) -> None:
    model = get_peft_model(tiny.base("llama"), config())
    names = [name for name, one in model.named_modules() if isinstance(one, tuner.tuner_layer_cls)]
    assert isinstance(model.base_model, WrappingTuner)
    assert names
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    model.add_adapter("second", config())
    assert [name for name, one in model.named_modules() if isinstance(one, tuner.tuner_layer_cls)] == names
    # The new one waits: PEFT activates the first alone.
    assert {name for name, one in model.named_parameters() if one.requires_grad} == trained
    assert len([name for name, _ in model.named_parameters() if ".second." in name or name.endswith(".second")]) == (
        len(trained)
    )
    model.set_adapter("second")
    assert all("second" in name for name, one in model.named_parameters() if one.requires_grad)


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("config", [BitFitConfig, BottleneckConfig, FullConfig])
def test_adapters_are_in_float32_or_in_what_the_base_computes_in_as_peft_is_told(
    config: Any, autocast: bool, tmp_path: Path
) -> None:
    def trained(model: PeftModel, adapter: str) -> set[torch.dtype]:
        names = dict(model.named_parameters())
        return {one.dtype for name, one in names.items() if f".{adapter}." in name or name.endswith(f".{adapter}")}

    def base() -> nn.Module:
        return tiny.base("llama").to(torch.bfloat16)

    wanted = {torch.float32 if autocast else torch.bfloat16}
    model = get_peft_model(base(), config(task_type="CAUSAL_LM"), autocast_adapter_dtype=autocast)
    model.add_adapter("second", config(task_type="CAUSAL_LM"), autocast_adapter_dtype=autocast)
    assert trained(model, "default") == trained(model, "second") == wanted
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    for lean in (True, False):
        options = {"autocast_adapter_dtype": autocast, "low_cpu_mem_usage": lean}
        loaded = PeftModel.from_pretrained(base(), tmp_path, **options)
        loaded.load_adapter(str(tmp_path / "second"), "second", **options)
        assert trained(loaded, "default") == trained(loaded, "second") == wanted


def full(base: nn.Module) -> FullLayer:
    return FullLayer(base)


def bitfit(base: nn.Module) -> BitFitLayer:
    return BitFitLayer(base, "default", BitFitConfig())


def serial(base: nn.Module) -> SerialBottleneck:
    return SerialBottleneck(base, "default", BottleneckConfig())


def parallel(base: nn.Module) -> ParallelBottleneck:
    return ParallelBottleneck(base, "default", BottleneckConfig(placement="parallel"))


@pytest.mark.parametrize(
    ("layer", "base", "sizes"),
    [
        (full, nn.Linear(3, 2), (3, 2)),
        (full, Conv1D(2, 3), (3, 2)),
        (full, nn.Conv2d(3, 2, 1), (3, 2)),
        (full, nn.Embedding(3, 2), (3, 2)),
        (full, nn.LayerNorm(4), (4, 4)),
        (full, nn.MultiheadAttention(4, 2), (4, 4)),
        (full, nn.BatchNorm1d(4), (None, None)),
        (bitfit, nn.Linear(3, 2), (3, 2)),
        (bitfit, Conv1D(2, 3), (3, 2)),
        (bitfit, nn.LayerNorm(4), (4, 4)),
        (serial, nn.Linear(3, 2), (3, 2)),
        (serial, Conv1D(2, 3), (3, 2)),
        (parallel, nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)), (4, 4)),
    ],
)
def test_a_layer_tells_the_sizes_of_what_it_wraps(layer: Any, base: nn.Module, sizes: tuple[int | None, ...]) -> None:
    one = layer(base)
    assert (one.in_features, one.out_features) == sizes

"""Bottleneck adapters from a spec."""

from __future__ import annotations

from typing import Any

from peft_nb.methods import attach, problems
from peft_nb.spec import RunSpec
from tests import tiny


def test_a_spec_makes_the_adapter() -> None:
    spec = RunSpec(data="x", method="bottleneck", dropout=0.1)
    assert problems(spec) == []
    model = attach(tiny.base("llama"), spec, "base")
    config = model.peft_config["default"]
    assert (config.dropout, config.base_model_name_or_path) == (0.1, "base")
    assert model.base_model.targeted_module_names == ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]
    other = RunSpec(data="x", method="bottleneck", target_modules=["mlp"], method_options={"placement": "parallel"})
    config = attach(tiny.base("llama"), other, "base").peft_config["default"]
    assert (config.placement, config.target_modules, config.scaling) == ("parallel", ["mlp"], 4.0)


def test_a_run_trains_one(start: Any) -> None:
    run = start(method="bottleneck", max_steps=4).wait()
    assert (run.status, run.reason) == ("finished", "")
    assert run.metrics["trainable_parameters"] == 2 * (64 * 4 + 4 + 4 * 64 + 64)
    assert (run.adapter_dir / "adapter_model.safetensors").is_file()

"""What tuners of our own that wrap modules have in common."""

from __future__ import annotations

from typing import Any

import pytest
from peft import get_peft_model

from peft_nb.methods.bitfit.model import BitFitConfig, BitFitModel
from peft_nb.methods.bottleneck.model import BottleneckConfig, BottleneckModel
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

"""Which modules get an adapter, and which cannot."""

from __future__ import annotations

import pytest
from peft import get_peft_model

from peft_nb.errors import MethodError
from peft_nb.methods.bottleneck.model import BottleneckConfig
from tests import tiny


@pytest.mark.parametrize(("placement", "target"), [("pfeiffer", "q_proj"), ("parallel", "layers.1.mlp")])
def test_targets_by_name_come_first(placement: str, target: str) -> None:
    model = get_peft_model(tiny.base("llama"), BottleneckConfig(placement=placement, target_modules=[target]))
    found = model.base_model.targeted_module_names
    assert found
    assert all(name.endswith(target) for name in found)


@pytest.mark.parametrize(("placement", "target"), [("pfeiffer", "mlp"), ("parallel", "down_proj")])
def test_targets_of_the_wrong_kind_are_refused(placement: str, target: str) -> None:
    with pytest.raises(MethodError, match=f"target_modules: model.layers.0.*{target} is a .* attach to"):
        get_peft_model(tiny.base("llama"), BottleneckConfig(placement=placement, target_modules=[target]))

from __future__ import annotations

from peft_nb.methods import REGISTRY
from peft_nb.spec import METHODS
from peft_nb.ui.methods import WIDTH, explained, listed


def test_every_method_is_listed() -> None:
    assert list(listed(None, {}).index) == list(METHODS)


def test_every_option_is_told_with_its_default_and_its_help() -> None:
    told = explained(REGISTRY["lora"])
    assert "  fan_in_fan_out: false\n      Set this to True if the layer to replace stores weight" in told
    assert max(map(len, told.splitlines()[6:])) <= WIDTH
    assert "  reduction_factor: 16\n      The hidden size over the width of the bottleneck\n" in explained(
        REGISTRY["bottleneck"]
    )

"""What bottleneck adapters can be told."""

from __future__ import annotations

from typing import Any

import pytest

from peft_nb.errors import MethodError
from peft_nb.methods.bottleneck.config import BottleneckConfig
from peft_nb.methods.bottleneck.placement import PLACEMENTS


def test_defaults_are_the_papers() -> None:
    assert [BottleneckConfig(placement=one).scaling for one in PLACEMENTS] == [1.0, 1.0, 4.0]
    config = BottleneckConfig()
    assert (config.placement, config.reduction_factor, config.non_linearity) == ("pfeiffer", 16, "relu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"placement": "paralel"}, "placement: 'paralel' is not one of .*; did you mean 'parallel'"),
        ({"non_linearity": "gleu"}, "non_linearity: 'gleu' is not one of .*; did you mean 'gelu'"),
        ({"reduction_factor": 0.5}, "reduction_factor: 0.5 is not a number of 1 or more"),
        ({"reduction_factor": "wide"}, "reduction_factor: 'wide' is not"),
        ({"scaling": 0}, "scaling: 0 is not a number above 0"),
        ({"layer_norm": "yes"}, "layer_norm: 'yes' is not true or false"),
        ({"dropout": 1}, "dropout: 1 is not"),
    ],
)
def test_a_bad_option_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message) as caught:
        BottleneckConfig(**settings)
    assert "\n" not in str(caught.value)

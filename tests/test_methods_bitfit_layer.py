"""A layer whose output is shifted, alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from peft_nb.errors import MethodError
from peft_nb.methods.bitfit.layer import BitFitLayer, unmergeable
from peft_nb.methods.bitfit.model import BitFitConfig

X = torch.arange(6.0).reshape(2, 3)


def layer(bias: bool = True, shift: float = 0.5) -> BitFitLayer:
    torch.manual_seed(0)
    made = BitFitLayer(nn.Linear(3, 2, bias=bias), "default", BitFitConfig())
    made.bitfit_bias["default"].data.fill_(shift)
    return made


@pytest.mark.parametrize("bias", [True, False])
def test_the_output_is_the_bases_shifted_by_each_active_adapter(bias: bool) -> None:
    one = layer(bias)
    before = one.base_layer(X)
    torch.testing.assert_close(one(X), before + 0.5)
    one.update_layer("second", BitFitConfig())
    one.bitfit_bias["second"].data.fill_(2)
    torch.testing.assert_close(one(X), before + 0.5)
    one.set_adapter(["default", "second"])
    torch.testing.assert_close(one(X), before + 2.5)
    one.enable_adapters(False)
    assert torch.equal(one(X), before)


def test_an_added_adapter_is_zero_in_what_the_base_computes_in() -> None:
    one = BitFitLayer(nn.Linear(3, 2).to(torch.bfloat16), "default", BitFitConfig())
    assert one.bitfit_bias["default"].dtype == torch.bfloat16
    assert not one.bitfit_bias["default"].any()
    assert one(X.to(torch.bfloat16)).dtype == torch.bfloat16


def test_merged_it_computes_the_same_and_gives_the_bias_back_to_the_last_bit() -> None:
    one = layer()
    own, expected = one.base_layer.bias, one(X)
    values = own.detach().clone()
    one.merge()
    torch.testing.assert_close(one.base_layer(X), expected)
    torch.testing.assert_close(one(X), expected)
    one.unmerge()
    assert one.base_layer.bias is own
    assert torch.equal(own, values)
    with pytest.warns(UserWarning, match="Already unmerged"):
        one.unmerge()


def test_what_cannot_be_merged_says_why_and_leaves_the_layer() -> None:
    with pytest.raises(MethodError, match=r"^bitfit: 1 biases were added to layers of this layer that have none"):
        layer(bias=False).merge()
    broken = layer(shift=float("nan"))
    with pytest.raises(ValueError, match="NaNs detected in the merged weights. The adapter default seems to be broken"):
        broken.merge(safe_merge=True)
    assert not broken.merged
    assert "\n" not in unmergeable(3, "Model")

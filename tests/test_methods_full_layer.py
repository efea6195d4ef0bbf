"""A module that computes with trained copies of its parameters, alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from peft_nb.errors import MethodError
from peft_nb.methods.full.layer import FullLayer

X = torch.linspace(-1, 1, 6).reshape(2, 3)


def layer(base: nn.Module, *adapters: str) -> FullLayer:
    made = FullLayer(base)
    for adapter in adapters or ("default",):
        made.add(adapter, ["weight", "bias"], {})
    made.set_adapter("default")
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copies_are_read_in_the_dtype_of_the_base_whatever_their_own(dtype: torch.dtype) -> None:
    one = layer(nn.Linear(3, 2).to(torch.bfloat16))
    assert {copy.dtype for copy in one.full_copies["default"].values()} == {torch.bfloat16}
    one.full_copies.to(dtype)
    assert one.weight.dtype == one(X.to(torch.bfloat16)).dtype == torch.bfloat16
    assert torch.equal(one.weight, one.base_layer.weight)


def test_the_active_adapters_copies_are_computed_with() -> None:
    base = nn.Linear(3, 2)
    one, before = layer(base, "default", "other"), base(X)
    one.full_copies["default"]["bias"].data += 1
    one.full_copies["other"]["bias"].data += 2
    torch.testing.assert_close(one(X), before + 1)
    one.set_adapter("other")
    torch.testing.assert_close(one(X), before + 2)
    assert torch.equal(one.bias, one.full_copies["other"]["bias"])
    one.enable_adapters(False)
    assert torch.equal(one(X), before)
    assert one.bias is base.bias


def test_one_set_of_weights_at_a_time() -> None:
    one = layer(nn.Linear(3, 2), "default", "other")
    one.set_adapter(["default", "other"])
    with pytest.raises(MethodError, match="one set of weights at a time, not default and other; name one of them"):
        one(X)
    with pytest.raises(MethodError, match="one set of weights at a time"):
        one.merge()


def test_merging_writes_nothing_into_the_base_and_is_undone() -> None:
    base = nn.Linear(3, 2)
    one, own = layer(base), base.weight
    values = own.detach().clone()
    one.full_copies["default"]["weight"].data *= 2
    expected = one(X)
    one.merge(safe_merge=True)
    torch.testing.assert_close(base(X), expected)
    assert torch.equal(own, values)
    one.unmerge()
    assert base.weight is own
    with pytest.warns(UserWarning, match="Already unmerged"):
        one.unmerge()
    one.full_copies["default"]["weight"].data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaNs detected"):
        one.merge(safe_merge=True)


def test_a_weight_that_two_modules_share_has_one_copy() -> None:
    words = nn.Embedding(4, 3)
    head = nn.Linear(3, 4, bias=False)
    head.weight = words.weight
    first, second, places = FullLayer(words), FullLayer(head), {}
    for one in (first, second):
        one.add("default", ["weight"], places)
        one.set_adapter("default")
    assert len([*first.full_copies.parameters(), *second.full_copies.parameters()]) == 1
    assert first.weight is second.weight is first.full_copies["default"]["weight"]
    first.merge()
    second.merge()
    assert words.weight is head.weight


def test_a_wrapper_takes_no_other_weights() -> None:
    one = layer(nn.Linear(3, 2))
    one.weight = one.full_copies["default"]["weight"]  # what tie_weights does
    with pytest.raises(MethodError, match="weight of a trained Linear cannot be replaced"):
        one.weight = nn.Parameter(torch.zeros(2, 3))


def test_what_is_read_of_a_merged_and_disabled_layer_is_the_bases() -> None:
    base = nn.MultiheadAttention(4, 2)  # which reads the weight of its output layer and never calls it
    base.out_proj, x = layer(base.out_proj), torch.randn(3, 4)
    before = base(x, x, x)[0]
    base.out_proj.full_copies["default"]["weight"].data += 1
    tuned = base(x, x, x)[0]
    assert not torch.equal(tuned, before)
    base.out_proj.merge()
    assert torch.equal(base(x, x, x)[0], tuned)
    base.out_proj.enable_adapters(False)
    assert torch.equal(base(x, x, x)[0], before)


def test_copies_are_computed_with_where_a_parameter_hides_behind_an_attribute() -> None:
    base = nn.Linear(3, 2)
    one = layer(base)
    one.full_copies["default"]["bias"].data += 1
    vars(base)["bias"] = view = base.bias.detach()  # as FSDP leaves it while it runs
    torch.testing.assert_close(one(X), X @ base.weight.T + view + 1)
    assert vars(base)["bias"] is view


def test_copies_without_memory_stay_until_they_are_loaded() -> None:
    one = layer(nn.Linear(3, 2))
    one.full_copies.to("meta")
    one._move_adapter_to_device_of_base_layer("default")
    assert {copy.device.type for copy in one.full_copies.parameters()} == {"meta"}

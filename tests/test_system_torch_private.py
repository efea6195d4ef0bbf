"""torch's private API is where it was, and its products are those of a linear layer."""

from __future__ import annotations

import pytest
import torch

from peft_nb.system import torch_private
from tests.private_api import as_found


def test_all_of_it_is_where_it_was_read() -> None:
    assert as_found(torch_private.API) == torch_private.API


@pytest.mark.parametrize("rows", [1, 5, 300])
def test_a_weight_laid_out_for_few_rows_serves_any_number(rows: int) -> None:
    torch.manual_seed(0)
    x, weight, bias, other = (torch.randn(*shape).bfloat16() for shape in ((rows, 40), (56, 40), (56,), (rows, 56)))
    if not torch_private.packs(weight):
        pytest.skip("oneDNN computes no bfloat16 on this processor")
    packed, exact = torch_private.packed(weight, 5), x.double() @ weight.double().t()
    for found, wanted in (
        (torch_private.product(x, packed), exact),
        (torch_private.product(x, packed, bias), exact + bias.double()),
        (torch_private.product_added(x, packed, other), exact + other.double()),
    ):
        assert found.dtype == torch.bfloat16
        assert (found.double() - wanted).norm() < 4e-3 * wanted.norm()


def test_what_gains_nothing_is_not_laid_out() -> None:
    assert not torch_private.packs(torch.ones(2, 2))
    assert not torch_private.packs(torch.ones(2, 2, dtype=torch.bfloat16, device="meta"))

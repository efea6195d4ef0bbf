"""What the code leans on of torch's private API, as read in the version below; a test fails when any of it moves.

What is used is used here alone, and only after asking :func:`packs`: elsewhere it may be missing.
"""

from __future__ import annotations

from typing import Any

READ_IN = "2.13.0"

# None for what is called with arguments by position, as oneDNN's operators have no signature to look up.
API: dict[str, str | None] = {
    "torch.ops.mkldnn._is_mkldnn_bf16_supported": None,
    "torch.ops.mkldnn._linear_pointwise.binary": None,
    "torch.ops.mkldnn._linear_pointwise.default": None,
    "torch.ops.mkldnn._reorder_linear_weight.default": None,
}


def packs(weight: Any) -> bool:
    """Whether oneDNN takes a weight of this device and data type laid out in advance, and gains by it.

    In float32 it does not: products of 16 rows took as long or twice as long as those with plain weights.
    """
    import torch

    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    operators = torch.ops.mkldnn
    if not all(hasattr(operators, name) for name in ("_linear_pointwise", "_reorder_linear_weight")):
        return False
    return weight.dtype == torch.bfloat16 and bool(operators._is_mkldnn_bf16_supported())


def packed(weight: Any, rows: int) -> Any:
    """A weight, shape ``(out, in)``, laid out for products with about so many rows."""
    import torch

    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), rows)


def product(x: Any, weight: Any, bias: Any = None) -> Any:
    """``x W^T + b`` of a packed weight; ``x`` has shape ``(rows, in)``."""
    import torch

    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def product_added(x: Any, weight: Any, other: Any) -> Any:
    """``other + x W^T`` of a packed weight, in one pass; ``other`` has shape ``(rows, out)``."""
    import torch

    return torch.ops.mkldnn._linear_pointwise(x, other, weight, None, "add")

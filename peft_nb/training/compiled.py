"""The blocks of a model compiled by torch.compile, with the attention over segments left as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import any_torch_dispatch_mode_on_stack
from transformers import AttentionInterface

from peft_nb.errors import MethodError
from peft_nb.models.quiet import first_line
from peft_nb.training import attention

VARIANTS = 64  # of one block: with and without gradients, by kinds of attention, of one token and of many
CARRIED = ("segments", "parents")


class Carried:
    """What goes through a block to its attention unseen: of a list the compiler would compile each length anew."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given


def require(device: str) -> None:
    """Find out by trying whether this machine can compile.

    Parameters
    ----------
    device : str
        ``cpu``, ``cuda`` or ``mps``.

    Raises
    ------
    MethodError
        It cannot, and why.
    """
    try:
        torch.compile(lambda x: x.sin() + 1, dynamic=True)(torch.ones(2, device=device))
    except Exception as error:  # whatever it is, it means that this machine cannot
        fix = f"install {'a C++ compiler' if device == 'cpu' else 'Triton'}, or turn it off"
        why = f"torch_compile: PyTorch cannot compile for the {device} ({first_line(error)})"
        raise MethodError(f"{why}; {fix}") from None


def blocks(model: Any) -> list[nn.Module]:
    """The layers that a model is a stack of."""
    return list(next((part for part in model.get_base_model().modules() if isinstance(part, nn.ModuleList)), ()))


@contextmanager
def installed(model: Any) -> Iterator[None]:
    """Compile each block while the context lasts; to be entered before what :mod:`.fused` does to other layers."""
    # Segments differ from row to row, and are no business of a compiler. It stays, as it serves every other model too.
    AttentionInterface.register(attention.NAME, torch.compiler.disable(_attend))
    found = blocks(model)
    try:
        for block in found:
            block.forward = _compiled(block.forward)
        yield
    finally:
        for block in found:
            vars(block).pop("forward", None)


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    inner = torch.compile(forward, dynamic=True, recompile_limit=VARIANTS)  # type: ignore[call-overload]

    def carrying(*args: Any, **named: Any) -> Any:
        if any_torch_dispatch_mode_on_stack():  # in which nothing is compiled, nor what it has met there ever again
            return forward(*args, **named)
        given = {name: named.pop(name) for name in CARRIED if name in named}
        return inner(*args, **named, carried=Carried(given)) if given else inner(*args, **named)

    carrying.compiled = True  # type: ignore[attr-defined]
    return carrying


def _attend(*args: Any, carried: Carried | None = None, **named: Any) -> Any:
    named |= carried.given if carried else {}
    return attention.segment_attention(*args, **named)


def inside(model: nn.Module) -> set[nn.Module]:
    """All parts of the blocks that are compiled."""
    found = (block for block in model.modules() if hasattr(vars(block).get("forward"), "compiled"))
    return {part for block in found for part in block.modules()}

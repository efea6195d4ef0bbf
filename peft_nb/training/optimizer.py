"""The optimizer of a run: one of those that transformers offers and makes, tried here before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from peft_nb.errors import MethodError

PROBE = 256, 256  # a parameter to try one on: those of 8 bits keep less than 4,096 numbers in 32


PAGED = "paged_adamw_8bit"


def runs(optim: str, device: str) -> bool:
    """Find out by a step whether an optimizer runs on a device."""
    try:
        state_bytes(optim, device)
    except MethodError:
        return False
    return True


def named(optim: str | None, device: str, quantization: str = "none", runs: Callable[[str, str], bool] = runs) -> str:
    """Name the optimizer of a run.

    Parameters
    ----------
    optim : str or None
        What the spec says; null takes AdamW, fused where the device can.
    device : str
        Where it is to run. On a GPU null takes AdamW in 8 bits, paged to the host where memory gets short, for a base
        in 4 bits (QLoRA: Dettmers et al., 2023, arXiv:2305.14314), if that runs there.
    quantization : {"none", "4bit", "8bit"}
        How the base is kept.
    runs : callable
        Says whether an optimizer runs on a device.

    Returns
    -------
    str
        As transformers names it.
    """
    if optim:
        return optim
    if device == "cuda" and quantization == "4bit" and runs(PAGED, device):
        return PAGED
    return "adamw_torch_fused" if device in ("cpu", "cuda") else "adamw_torch"


def made(optim: str, device: str, parameters: Sequence[Any]) -> Any:
    """An optimizer of some parameters, by the name that transformers has for it."""
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(output_dir=".", optim=optim, report_to="none", use_cpu=device == "cpu")
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    return kind(parameters, **options)


@cache
def state_bytes(optim: str, device: str) -> float:
    """How much an optimizer keeps, found by a step of it.

    Parameters
    ----------
    optim : str
        As transformers names it.
    device : str
        Where it is to run.

    Returns
    -------
    float
        Bytes a trained number.

    Raises
    ------
    MethodError
        If it does not run there.
    """
    import torch

    parameter = torch.nn.Parameter(torch.zeros(PROBE, device=device))
    parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer = made(optim, device, [parameter])
        optimizer.step()
    except Exception as error:
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        fix = "take adafactor, or leave it out for AdamW"
        raise MethodError(f"optim: {optim} does not run on the {device} ({why}); {fix}") from None
    kept = (one for state in optimizer.state.values() for one in state.values() if torch.is_tensor(one))
    return sum(one.nbytes for one in kept if one.numel() > 1) / parameter.numel()

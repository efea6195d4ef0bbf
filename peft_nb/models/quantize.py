"""Quantized bases through bitsandbytes: whether this machine can, how to ask for it, how to recognise it."""

from __future__ import annotations

import logging
from typing import Any, Literal

from peft_nb.errors import ModelError
from peft_nb.models.quiet import first_line, quiet

Quantization = Literal["none", "4bit", "8bit"]


def require(quantization: str, device: str) -> None:
    """Find out by trying whether this machine can quantize.

    Parameters
    ----------
    quantization : str
        ``4bit`` or ``8bit``.
    device : str
        ``cpu``, ``cuda`` or ``mps``.

    Raises
    ------
    ModelError
        It cannot, and why.
    """
    if quantization not in ("4bit", "8bit"):
        raise ModelError(f"unknown quantization {quantization!r}; choose none, 4bit or 8bit")
    import torch

    try:
        with quiet():
            from bitsandbytes import functional

            weight = torch.ones(64, 64, device=device, dtype=torch.float16)
            if quantization == "4bit":
                functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
            else:
                functional.int8_vectorwise_quant(weight)
    except Exception as error:  # whatever it is, it means that this machine cannot
        raise ModelError(
            f"bitsandbytes cannot quantize to {quantization} on {device} ({first_line(error)}); "
            "choose quantization none or another device"
        ) from error


def config(quantization: Quantization, compute: Any, whole: list[str] | None = None) -> Any:
    """Say to transformers how to quantize.

    Parameters
    ----------
    quantization : {"4bit", "8bit"}
        ``4bit``: NF4 with double quantization (https://arxiv.org/abs/2305.14314); ``8bit``: LLM.int8()
        (https://arxiv.org/abs/2208.07339).
    compute : torch.dtype
        What 4-bit weights are unpacked to for each product.
    whole : list of str, optional
        Parts to leave as they are; by default an output head over words.

    Returns
    -------
    transformers.BitsAndBytesConfig
        For ``from_pretrained``.
    """
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=whole)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=whole,
    )


def stored(model: Any) -> Quantization:
    """Tell how a loaded model stores its linear layers.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Any model.

    Returns
    -------
    {"none", "4bit", "8bit"}
        As transformers has marked it.
    """
    if getattr(model, "is_loaded_in_4bit", False):
        return "4bit"
    if getattr(model, "is_loaded_in_8bit", False):
        # Otherwise each layer says at each step that its inputs are cast to float16, which is its way to work.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return "8bit"
    return "none"

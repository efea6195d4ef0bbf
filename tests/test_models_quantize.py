"""Quantization is tried before it is promised."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from peft_nb.errors import ModelError
from peft_nb.models import quantize


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_this_machine_can(quantization: str) -> None:
    quantize.require(quantization, "cpu")


def test_what_cannot_be_is_one_line() -> None:
    with pytest.raises(ModelError, match="^unknown quantization '3bit'; choose none, 4bit or 8bit$"):
        quantize.require("3bit", "cpu")
    with pytest.raises(ModelError, match=r"^bitsandbytes cannot quantize to 4bit on nowhere \(.*\); choose ") as raised:
        quantize.require("4bit", "nowhere")
    assert "\n" not in str(raised.value)


def test_four_bits_are_normal_floats_with_double_quantization() -> None:
    four, eight = quantize.config("4bit", torch.bfloat16), quantize.config("8bit", torch.bfloat16)
    assert (four.load_in_4bit, four.bnb_4bit_quant_type, four.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert four.bnb_4bit_compute_dtype == torch.bfloat16
    assert (eight.load_in_8bit, eight.load_in_4bit) == (True, False)


@pytest.mark.parametrize(
    ("marks", "stored"),
    [({}, "none"), ({"is_loaded_in_4bit": True}, "4bit"), ({"is_loaded_in_8bit": True}, "8bit")],
)
def test_a_loaded_model_says_how_it_is_stored(marks: dict[str, bool], stored: str) -> None:
    assert quantize.stored(SimpleNamespace(**marks)) == stored

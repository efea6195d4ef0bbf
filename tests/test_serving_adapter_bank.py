"""Weights beside the base: rounded to 8 bits, forgotten in the order of use, and read by a thread."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from peft_nb.serving.adapter_bank import AdapterBank, Packed


@pytest.fixture
def adapters(tmp_path: Path) -> list[Any]:
    """Folders with a matrix each; all that a bank asks of an adapter."""
    found = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        weight = torch.randn(64, 32, generator=torch.Generator().manual_seed(number))
        save_file({"layer.lora_A.weight": weight}, folder / "adapter_model.safetensors")
        found.append(SimpleNamespace(name=str(number), folder=folder))
    return found


def test_a_matrix_is_off_by_half_a_step_of_its_row_at_most() -> None:
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    packed = Packed.of(weight)
    apart = (packed.unpacked() - weight).abs()
    assert bool((apart <= weight.abs().amax(1, keepdim=True) / 127 / 2 + 1e-7).all())
    assert apart[3].max() == 0
    assert packed.mb == pytest.approx((8 * 16 + 8 * 4) / 1e6)


def test_in_8_bits_what_was_read_stays_until_there_is_no_room(adapters: list[Any]) -> None:
    bank = AdapterBank(in_8_bits=True)
    first = bank.weights(adapters[0])["layer.lora_A.weight"]
    bank.weights(adapters[1])
    (adapters[0].folder / "adapter_model.safetensors").unlink()
    assert torch.equal(bank.weights(adapters[0])["layer.lora_A.weight"], first)
    bank.shrink(0.6 * bank.mb)
    assert ["0" in bank, "1" in bank] == [True, False]
    bank.clear()
    assert (bank.mb, "0" in bank) == (0, False)


def test_what_is_read_ahead_is_what_the_file_holds_and_the_last_one_counts(adapters: list[Any]) -> None:
    bank = AdapterBank()
    bank.read_ahead(adapters[0])
    bank.read_ahead(adapters[1])
    assert ["0" in bank, "1" in bank] == [False, True]
    exact = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(bank.weights(adapters[1])["layer.lora_A.weight"], exact)
    assert "1" not in bank

"""Hashes of bases: equal for equal weights, whatever they are loaded as, and different after any training."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peft_nb.models.load import forget, load
from peft_nb.models.resolve import resolve
from peft_nb.models.weights import BLOCK, BLOCKS, fingerprint


@pytest.fixture(autouse=True, scope="module")
def give_back() -> Iterator[None]:
    yield
    forget()


def of(model: Any, **options: Any) -> str:
    return fingerprint(load(resolve(model), **options))


def test_the_weights_count_and_not_how_they_are_loaded(base: Path, tmp_path: Path) -> None:
    same = shutil.copytree(base, tmp_path / "same")
    (same / "config.json").write_text((base / "config.json").read_text() + " ")
    assert of(base) == of(base, dtype="bfloat16") == of(same)
    assert len(of(base)) == 64


def test_a_base_that_was_trained_on_is_another(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    model.model.norm.weight.data[3] += 1e-3
    other = shutil.copytree(base, tmp_path / "other")
    model.save_pretrained(other)
    assert of(base) != of(other)


def test_large_files_are_sampled_from_end_to_end(base: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(base / "model.safetensors")
    weights["spare"] = torch.zeros(3 * BLOCKS * BLOCK, dtype=torch.uint8)
    found = set()
    for changed in (slice(0, 0), slice(1_000_000, 1_300_000), slice(-1, None)):
        folder = shutil.copytree(base, tmp_path / str(changed.start))
        weights["spare"].zero_()[changed] = 1
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        found.add(of(folder))
    assert len(found) == 3


def test_a_live_model_is_told_by_its_values(base: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pair = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    before = of(pair)
    assert of(pair, dtype="bfloat16") == before
    pair[0].model.layers[1].mlp.up_proj.weight.data += 1e-3
    assert of(pair) != before

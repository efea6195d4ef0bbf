"""Examples of a classifier as version 0.1 kept them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from peft_nb.data import labels
from peft_nb.data.detection import detect
from peft_nb.data.labels import Classes
from peft_nb.data.legacy import legacy_labelled
from peft_nb.data.rendered import RenderedRows
from tests.templates import learned


@pytest.mark.parametrize("run", ["lora-ae10db", "lora-b0c5b9"])
def test_examples_of_version_0_1_are_those_of_today(tmp_path: Path, run: str) -> None:
    with zipfile.ZipFile(Path(__file__).parent / "data" / "store-0.1.0.zip") as archive:
        archive.extractall(tmp_path)
    train, held_out = legacy_labelled(tmp_path / "store" / "runs" / run / "labelled.safetensors")
    rows = [json.loads(line) for line in (tmp_path / "labelled.jsonl").read_text().splitlines()]
    layout = detect(rows)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "encoder")
    classes: Classes = labels.find(rows, layout)
    rendered = RenderedRows(rows, layout, tokenizer)
    today = labels.encode(*learned(rendered, classes), max_length=tokenizer.model_max_length).examples
    assert len(train) + len(held_out) == len(today) == len(rows)
    assert 0 < len(held_out) < len(train)
    assert sorted(map(repr, [*train, *held_out])) == sorted(map(repr, today))
    assert train.targets == len(train)
    assert train.rows.tolist() + held_out.rows.tolist() == list(range(len(rows)))

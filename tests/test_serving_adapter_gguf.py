from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from peft_nb.adapters.gguf.proof import Runtime
from peft_nb.data.rendering import DEFAULT_TEMPLATE
from peft_nb.errors import ModelError, RunError
from peft_nb.events import silent
from peft_nb.runs.run import Run
from peft_nb.serving import adapter_gguf, targets
from peft_nb.store import Store
from tests.test_serving_targets import ONE


def test_files_are_written_once_and_anew_for_other_contents(desk: dict[str, Run], base: Path, tmp_path: Path) -> None:
    store = Store(desk["manners@v2"].folder.parents[1])
    version = targets.read(store, "tickets@v1", "tickets@v1").main
    file = adapter_gguf.adapter_file(version, base)
    stamp = file.stat().st_mtime_ns
    assert adapter_gguf.adapter_file(version, base) == file
    assert file.stat().st_mtime_ns == stamp
    assert file.is_relative_to(desk["tickets@v1"].folder)  # and is removed with it
    assert store.verify("tickets@v1") == {}

    copy = tmp_path / "base"
    shutil.copytree(base, copy)
    first = adapter_gguf.base_file(copy, silent)
    assert adapter_gguf.base_file(copy, silent) == first
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rope_theta": 5000.0}))
    assert adapter_gguf.base_file(copy, silent) != first


def test_a_base_without_a_chat_template_gets_the_one_of_runs_on_it(base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "plain"
    shutil.copytree(base, copy)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = None
    (copy / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(copy)
    file = adapter_gguf.base_file(copy, silent)
    found = Runtime(file)
    turns = [{"role": "user", "content": "Where is my parcel?"}]
    asked = found.ask("/apply-template", messages=turns)["prompt"]
    rendered = tokenizer.apply_chat_template(
        turns, chat_template=DEFAULT_TEMPLATE, add_generation_prompt=True, tokenize=False
    )
    assert rendered.endswith("Assistant:")
    assert asked == rendered


def test_merged_models_are_bounded_by_memory(tmp_path: Path) -> None:
    base, merged = tmp_path / "base.gguf", replace(ONE, label="dora@v1", merged="llama.cpp loads no DoRA")
    with base.open("wb") as file:
        file.truncate(10**12)  # a hole
    adapter_gguf.check_memory([ONE], base)
    with pytest.raises(
        RunError, match=r"^dora@v1: no LoRA for llama.cpp, .* take 2,000,000 MB, and [\d,]+ MB are free"
    ):
        adapter_gguf.check_memory([ONE, merged], base)


def test_what_cannot_be_merged_is_told_as_the_export_tells_it(desk: dict[str, Run]) -> None:
    store = Store(desk["manners@v3"].folder.parents[1])
    main = targets.read(store, "tickets@v1", "tickets@v1").main
    version = replace(main, run=desk["manners@v3"].id, label="manners@v3")
    with pytest.raises(ModelError, match=r"^manners@v3: method: prompt cannot be merged into weights; --as adapter"):
        adapter_gguf.merged_file(version, "f16")
    assert not adapter_gguf.merged_path(version, "f16").exists()

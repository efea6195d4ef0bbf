"""Adapters as plain PEFT folders, and disks that refuse them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from peft_nb.errors import StoreError
from peft_nb.events import Notice
from peft_nb.runs.run import Run, begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests.conftest import Python, file_size_limit, stop_at

FILES = {"README.md", "curves.png", "adapter_config.json", "adapter_model.safetensors", "spec.yaml"}

# Knows nothing but PEFT and transformers, as whoever is given an adapter.
PLAIN = """
import sys
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
base, adapter, file = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
with torch.inference_mode():
    save_file({"logits": model(input_ids=torch.tensor([[5, 60, 7, 100, 9]])).logits}, file)
print(*(name for name in sys.modules if name.partition(".")[0] == "peft_nb"))
"""


@pytest.fixture(scope="module")
def trained(spec: Callable[..., RunSpec], rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    store = Store(tmp_path_factory.mktemp("trained"))
    return begin(spec(name="desk", r=8), data=rows, store=store).wait()


@pytest.mark.exhaustive
def test_peft_alone_loads_what_was_saved_and_gives_equal_logits(
    trained: Run, base: Path, tmp_path: Path, python: Python
) -> None:
    import torch
    from safetensors.torch import load_file

    folder = trained.save(tmp_path / "deep" / "adapter")
    assert {path.name for path in folder.iterdir()} == FILES
    process = python("-c", PLAIN, base, folder, tmp_path / "logits.safetensors")
    assert process.communicate()[0].split() == []
    assert process.returncode == 0
    ids = torch.tensor([[5, 60, 7, 100, 9]])
    with torch.inference_mode():
        logits = trained.model(input_ids=ids).logits
        with trained.model.disable_adapter():
            bare = trained.model(input_ids=ids).logits
    assert torch.equal(load_file(tmp_path / "logits.safetensors")["logits"], logits)
    assert (logits - bare).abs().max() > 0.1


def test_the_folder_says_what_it_is(trained: Run, base: Path) -> None:
    config = json.loads((trained.adapter_dir / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["base_model_name_or_path"]) == ("LORA", 8, str(base))
    told = (trained.adapter_dir / "spec.yaml").read_text()
    assert RunSpec.from_yaml(told) == RunSpec(**trained.spec.changed() | {"model": base.name})
    assert "/" not in told  # no path of this machine


def test_no_file_of_a_run_can_carry_code(start: Callable[..., Run]) -> None:
    run = start(stop_at(1), max_steps=50)
    run.wait()
    files = {path.relative_to(run.folder) for path in run.folder.rglob("*") if path.is_file()}
    kept = {"adapter", "checkpoints", "data.json", "examples.json", "judging.json", "prompts.json"}
    assert {file.parts[0] for file in files} == kept
    assert {file.suffix for file in files} == {".safetensors", ".json", ".md", ".png", ".yaml"}


def test_saving_again_replaces_an_adapter_but_never_a_users_own_files(trained: Run, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    trained.save(folder)
    trained.save(folder)
    (folder / "thesis.tex").write_text("years of work")
    (folder / "README.md").write_text("my notes")
    with pytest.raises(StoreError, match=r"it holds 'thesis.tex', which would be lost; choose another folder$"):
        trained.save(folder)
    assert (folder / "thesis.tex").read_text() == "years of work"
    assert (folder / "README.md").read_text() == "my notes"
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def test_a_refusal_is_one_line_and_the_run_stays_usable(trained: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"^cannot write .*/file/adapter: a file stands where a folder is needed"):
        trained.save(tmp_path / "file" / "adapter")
    with file_size_limit(10_000), pytest.raises(StoreError, match=r"^cannot write .*/adapter: .*; .*$") as raised:
        trained.save(tmp_path / "adapter")
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert isinstance(trained.generate("Hello", max_new_tokens=2), str)
    assert {path.name for path in trained.save(tmp_path / "adapter").iterdir()} == FILES


def test_a_disk_that_is_full_when_training_ends_loses_nothing(start: Callable[..., Run], tmp_path: Path) -> None:
    with file_size_limit(2_000_000):
        run = start(r=1024, max_steps=3, save_steps=2)
        with pytest.raises(StoreError, match=r"^cannot write .*/adapter: ") as raised:
            run.wait()
    assert "\n" not in str(raised.value)
    assert (run.status, run.reason) == ("failed", str(raised.value))
    assert any("no checkpoint after step 2" in event.text for event in run.events() if isinstance(event, Notice))
    assert {path.name for path in run.folder.rglob("*") if path.is_file()} == {
        "data.json",
        "examples.json",
        "judging.json",
        "prompts.json",
    }
    assert run.metrics["steps"] == 3
    assert run.generate("Hello", max_new_tokens=4) != run.generate("Hello", max_new_tokens=4, adapter=False)
    assert {path.name for path in run.save(tmp_path / "elsewhere").iterdir()} == FILES

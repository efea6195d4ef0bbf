from __future__ import annotations

from pathlib import Path

import pytest

from peft_nb.adapters.exporters import Exportable, export
from peft_nb.errors import MergeError, RunError
from peft_nb.runs.run import Run
from peft_nb.spec import RunSpec


def given(merge: object) -> Exportable:
    """A run of which nothing but merging is asked."""
    return Exportable("lora-1", RunSpec(data="tickets"), {}, pytest.fail, merge, pytest.fail)  # type: ignore[arg-type]


def test_the_folder_is_given_whatever_merging_returns(tmp_path: Path) -> None:
    assert export(given(lambda folder: folder.write_text("weights")), tmp_path / "out", "merged") == tmp_path / "out"
    assert (tmp_path / "out").read_text() == "weights"


def test_a_refusal_to_merge_is_passed_on(tmp_path: Path) -> None:
    def refuse(folder: Path) -> None:
        raise MergeError("every candidate differs")

    with pytest.raises(MergeError, match="^every candidate differs$"):
        export(given(refuse), tmp_path / "out", "merged")
    assert not (tmp_path / "out").exists()


def test_a_real_run_is_written_without_its_adapter(finished: Run, tmp_path: Path) -> None:
    folder = finished.export(tmp_path / "plain", "merged")
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if name.startswith("adapter")]
    with pytest.raises(RunError, match="did you mean 'merged'"):
        finished.export(tmp_path / "other", "merge")  # type: ignore[arg-type]

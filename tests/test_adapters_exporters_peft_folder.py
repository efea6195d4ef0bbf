from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from peft_nb.adapters.exporters.peft_folder import draft
from peft_nb.events import silent
from peft_nb.models.live import WEIGHTS
from peft_nb.runs.run import Run


def test_a_change_is_seen_and_kept_with_its_section(finished: Run, tmp_path: Path) -> None:
    run = finished._exportable({}, silent)
    with draft(run, tmp_path / "out") as made:
        weights = load_file(made.folder / WEIGHTS)
        save_file({name: one * 1.5 for name, one in weights.items()}, made.folder / WEIGHTS, {"format": "pt"})
        changed, saved = made.read_back()
        assert made.near(saved, made.live.model).kl < 1e-6 < made.near(changed, saved).kl
        made.add("In a program", "How it is loaded.")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "README.md").read_text().endswith("\n## In a program\n\nHow it is loaded.\n")
    assert (load_file(tmp_path / "out" / WEIGHTS).keys(), [*tmp_path.iterdir()]) == (weights.keys(), [tmp_path / "out"])


def test_what_is_refused_under_way_leaves_nothing(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), draft(finished._exportable({}, silent), tmp_path / "out"):
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == []

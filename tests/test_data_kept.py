"""The examples of a run, found again in its store; what became of them is tested in test_runs_rows.py."""

from __future__ import annotations

import shutil
from pathlib import Path

from peft_nb.data.kept import cache_of, kept
from peft_nb.runs.run import Run


def test_the_examples_of_a_run_are_found_by_its_folder(finished: Run) -> None:
    sides = kept(finished.folder)
    assert sides
    assert (len(sides.train), len(sides.held_out)) == (21, 2)
    assert not {*sides.train.rows.tolist()} & {*sides.held_out.rows.tolist()}


def test_there_are_none_where_they_are_not_complete(finished: Run, tmp_path: Path) -> None:
    assert kept(tmp_path) is None
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    shutil.copy(finished.folder / "examples.json", folder)
    assert kept(folder) is None
    shutil.copytree(cache_of(finished.folder), cache_of(folder))
    assert kept(folder)

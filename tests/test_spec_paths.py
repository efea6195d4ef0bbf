"""Files and folders that a spec names, from wherever it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from peft_nb.spec import RunSpec, notation
from peft_nb.spec.paths import absolute, beside, local, named


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("owner/name", "owner/name"),
        ("data/rows.csv", "data/rows.csv"),
        ("/srv/data/rows.csv", "rows.csv"),
        ("../anna/rows.csv", "rows.csv"),
        ("./rows.csv", "rows.csv"),
        ("~/base/", "base"),
        (r"C:\Users\anna\rows.csv", "rows.csv"),
    ],
)
def test_of_a_path_the_last_part_is_told(name: str, told: str) -> None:
    assert local(name) == told


def test_what_exists_is_named_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("rows.csv", "tickets", "own.jsonl"):
        Path(name).touch()
    Path("tiny").mkdir()
    given = {"data": "tickets", "eval_data": "~/rows.csv", "regression": "own.jsonl", "model": "tiny", "name": "tiny"}
    whole = {name: str(tmp_path / name) for name in ("rows.csv", "tiny", "own.jsonl")}
    found = {"eval_data": whole["rows.csv"], "regression": whole["own.jsonl"], "model": whole["tiny"]}
    assert absolute(given, lambda field, name: name == "tickets") == given | found
    assert absolute({"data": "owner/tickets"}, lambda field, name: False) == {"data": "owner/tickets"}
    told = {"data": "tickets", "eval_data": "rows.csv", "regression": "own.jsonl", "model": "tiny", "name": "tiny"}
    assert named(given | found) == told


def test_a_file_of_settings_finds_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (project / "data", project / "tiny", project / "tickets", elsewhere):
        folder.mkdir(parents=True)
    (project / "data" / "rows.csv").touch()
    (project / "tiny" / "config.json").touch()
    (project / "held.csv").touch()
    (elsewhere / "held.csv").touch()
    (project / "run.yaml").write_text("data: data/rows.csv\neval_data: held.csv\nmodel: tiny\nregression: tickets\n")
    (project / "tuned").mkdir()
    (project / "tuned" / "adapter_config.json").touch()
    assert beside({"init_adapter": "tuned"}, project) == {"init_adapter": str(project / "tuned")}
    assert beside({"init_adapter": "tickets"}, project) == {"init_adapter": "tickets"}  # of the store
    monkeypatch.chdir(elsewhere)
    read = notation.read_run("../project/run.yaml", {}, RunSpec.describe())
    found = {"data": "../project/data/rows.csv", "model": "../project/tiny"}
    assert read == {"eval_data": "held.csv", "regression": "tickets", **found}

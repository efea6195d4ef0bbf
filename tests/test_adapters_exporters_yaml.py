from __future__ import annotations

from pathlib import Path

import pytest

from peft_nb.adapters.exporters import Exportable, export
from peft_nb.errors import StoreError
from peft_nb.runs.run import Run
from peft_nb.spec import RunSpec
from tests.conftest import file_size_limit


@pytest.fixture
def run() -> Exportable:
    """A run of which nothing but its spec is asked."""
    return Exportable("lora-1", RunSpec(data="tickets", name="desk", r=4), {}, pytest.fail, pytest.fail, pytest.fail)


def test_a_spec_does_not_take_the_place_of_a_folder(run: Exportable, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"it holds something else; choose another name$"):
        export(run, tmp_path, "yaml")


def test_a_real_run_is_written_as_its_spec(finished: Run, tmp_path: Path) -> None:
    text = finished.export(tmp_path / "run.yaml", "yaml").read_text()
    name = Path(finished.spec.model).name
    assert RunSpec.from_yaml(text) == RunSpec(**finished.spec.changed() | {"model": name})
    assert "/" not in text  # no path of this machine
    assert finished.export(tmp_path / "run.yaml", "yaml").exists()
    (tmp_path / "notes.yaml").write_text("mine: all")
    with pytest.raises(StoreError, match=r"it holds something else; choose another name$"):
        finished.export(tmp_path / "notes.yaml", "yaml")
    assert (tmp_path / "notes.yaml").read_text() == "mine: all"


def test_a_file_that_is_no_text_is_something_else(run: Exportable, tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(StoreError, match=r"^cannot write .*/photo: it holds something else; choose another name$"):
        export(run, tmp_path / "photo", "yaml")
    assert (tmp_path / "photo").read_bytes() == b"\xff\xd8\xff\xe0"


def test_a_disk_that_refuses_is_told_and_nothing_stays(run: Exportable, tmp_path: Path) -> None:
    with file_size_limit(3), pytest.raises(StoreError, match=r"^cannot write .*/run.yaml: "):
        export(run, tmp_path / "run.yaml", "yaml")
    assert list(tmp_path.iterdir()) == []


def test_the_file_says_what_is_not_as_usual(run: Exportable, tmp_path: Path) -> None:
    file = export(run, tmp_path / "deep" / "run.yaml", "yaml")
    assert file.read_text() == run.spec.to_yaml()
    assert RunSpec.from_yaml(file.read_text()) == run.spec
    assert "r: 4" in file.read_text()

"""The registry of formats, the short ones among them, and one that another package adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peft_nb.adapters.exporters import EXPORTERS, Exportable, Exporter, export
from peft_nb.errors import RunError
from peft_nb.magics.line import COMMANDS
from peft_nb.runs.run import Run
from peft_nb.spec import RunSpec
from tests.conftest import Python


@pytest.fixture
def run() -> Exportable:
    """A run that writes its adapter or model as a file, and has no examples."""

    def write(path: Path) -> Path:
        path.write_text("weights")
        return path

    def refuse() -> Any:
        raise AssertionError("nothing is loaded")

    return Exportable("lora-1", RunSpec(data="tickets", name="desk", r=4), {"eval_loss": 1.5}, write, write, refuse)


@pytest.mark.parametrize("name", EXPORTERS)
def test_an_entry_is_whole(name: str) -> None:
    one = EXPORTERS[name]
    assert one.name == name
    assert one.help
    assert "\n" not in one.help
    assert one.suffix


def test_what_a_run_writes_itself(run: Exportable, tmp_path: Path) -> None:
    assert export(run, tmp_path / "out", "adapter") == tmp_path / "out"
    assert (tmp_path / "out").read_text() == "weights"


def test_an_unknown_format_and_an_obstacle_are_refused_before_anything_is_loaded(
    run: Exportable, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"'scrpt' is not one of script, yaml, adapter.*; did you mean 'script'\?"):
        export(run, tmp_path / "out", "scrpt")
    held = Exportable(run.id, RunSpec(data="a", method="bitfit"), {}, run.save, run.merge, run.examples)
    with pytest.raises(RunError, match="bitfit needs peft_nb while it trains"):
        export(held, tmp_path / "out", "script")
    assert not (tmp_path / "out").exists()


def test_a_real_run_is_written_as_its_adapter(finished: Run, tmp_path: Path) -> None:
    assert (finished.export(tmp_path / "adapter", "adapter") / "adapter_model.safetensors").is_file()


def test_a_format_registered_late_is_offered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPORTERS, "late", Exporter("late", "a late one", ".late", lambda run, path: path))
    assert COMMANDS["export"].usage.startswith(f"RUN [--as {'|'.join(EXPORTERS)}] [--to PATH] [--")
    assert COMMANDS["export"].flags["--as"].choices[-1] == "late"


ADDED = """
from peft_nb.adapters.exporters.base import Exporter

def write(run, path):
    path.write_text(f"{run.id}: {run.metrics['eval_loss']}")
    return path

EXPORTER = Exporter("note", "one line", ".txt", write)
"""
USED = """
import sys
from pathlib import Path
import peft_nb
from peft_nb.adapters.exporters import Exportable, export
from peft_nb.magics.line import COMMANDS

run = Exportable("lora-1", peft_nb.RunSpec(data="a"), {"eval_loss": 1.5}, None, None, None)
print(export(run, Path("note.txt"), "note").read_text())
print(COMMANDS["export"].usage.partition(" [--to")[0])
print(*COMMANDS["export"].flags["--as"].choices, COMMANDS["export"].flags["--as"].help.count("note: one line"))
print(*{"torch", "peft", "transformers"} & sys.modules.keys())
"""


def test_another_package_adds_a_format(tmp_path: Path, python: Python) -> None:
    installed = tmp_path / "installed"
    facts = installed / "notes-1.0.dist-info"
    facts.mkdir(parents=True)
    (installed / "notes.py").write_text(ADDED)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: notes\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[peft_nb.exporters]\nnote = notes:EXPORTER\n")
    code = f"import sys; sys.path.insert(0, {str(installed)!r})\n{USED}"
    told = python("-c", code, cwd=tmp_path).communicate()[0].splitlines()
    assert told == [
        "lora-1: 1.5",
        f"RUN [--as {'|'.join(EXPORTERS)}|note]",
        f"{' '.join(EXPORTERS)} note 1",
        "",
    ]

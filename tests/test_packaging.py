"""What a wheel carries besides the code, and the notebooks that it brings to JupyterLab."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement

from peft_nb.magics.line import COMMANDS
from peft_nb.spec import RunSpec, notation
from peft_nb.spec.recipes import names
from tests import lowest

ROOT = Path(__file__).parents[1]
STARTERS = sorted((ROOT / "templates" / "notebooks").glob("*.ipynb"))
INSTALLED = (
    "share/jupyter/notebook_templates/peft_nb"  # a folder of its own below the one jupyterlab-templates looks in
)

every_starter = pytest.mark.parametrize("path", STARTERS, ids=lambda path: path.stem)


def sources(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_a_wheel_brings_recipes_and_notebooks(tmp_path: Path) -> None:
    build = "import sys, hatchling.build; print(hatchling.build.build_wheel(sys.argv[1]))"
    made = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(tmp_path / made.stdout.strip()) as wheel:
        held = set(wheel.namelist())
        wheel.extractall(tmp_path / "installed")
    data = next(name for name in held if ".data/data/" in name).partition("/")[0] + "/data/"
    assert {f"{data}{INSTALLED}/{path.name}" for path in STARTERS} <= held
    scripts = {path.relative_to(ROOT).as_posix() for path in (ROOT / "peft_nb" / "ui").rglob("*.js")}
    assert scripts | {"peft_nb/ui/panels/uplot/LICENSE"} <= held
    assert any(name.endswith("licenses/peft_nb/ui/panels/uplot/LICENSE") for name in held)
    code = "from peft_nb.spec.recipes import FOLDER, names; print(FOLDER, *names())"
    paths = [str(tmp_path / "installed"), *filter(None, sys.path)]
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {paths!r}; {code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == [str(tmp_path / "installed" / "peft_nb" / "templates"), *names()]


def test_there_are_three_notebooks_to_begin_with() -> None:
    assert [path.stem for path in STARTERS] == ["classify-texts", "compare-methods", "tune-on-your-own-table"]


@every_starter
def test_it_is_valid_and_was_never_run(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count is None and not cell.outputs for cell in cells)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1
    assert notebook.cells[0].source.startswith("# ")


@every_starter
def test_every_cell_of_it_can_be_read(path: Path) -> None:
    for source in sources(path):
        if source.startswith("%%peft"):
            assert RunSpec(**notation.read_cell(source, RunSpec.describe()).fields)
        else:
            ast.parse(TransformerManager().transform_cell(source))
        for line in source.splitlines():
            if line.startswith("%peft "):
                assert line.split()[1] in COMMANDS


@every_starter
def test_its_first_cell_prepares_google_colab_and_nothing_else(path: Path) -> None:
    first, *others = sources(path)
    assert "google.colab.output" in first or "from google.colab import output" in first
    assert "output.enable_custom_widget_manager()" in first
    assert first.endswith("%load_ext peft_nb")
    assert not any("colab" in other for other in others)


def test_every_dependency_has_a_lowest_version_and_the_checks_run_with_a_later_one() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    wanted = [Requirement(one) for one in lowest.requirements()]
    assert len(lowest.lowest()) == len(wanted) > 30
    assert all(one.specifier.contains(pinned[one.name.lower().replace("_", "-")]) for one in wanted)

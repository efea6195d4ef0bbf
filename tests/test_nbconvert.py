"""A notebook with every kind of panel, executed and written as HTML by the real ``jupyter nbconvert``."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

from tests.reopened import CELLS, WRONG, cells_of

pytestmark = [pytest.mark.notebook, pytest.mark.timeout(600)]


class Outputs(HTMLParser):
    """The text of the outputs of each cell of an exported notebook, without styles and scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._silent, self._within = False, list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kinds = (dict(attrs).get("class") or "").split()
        if "jp-CodeCell" in kinds:
            self.texts.append("")
        self._silent = tag in ("style", "script")
        if "jp-Cell-inputWrapper" in kinds or "jp-Cell-outputWrapper" in kinds:
            self._within = kinds

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if self.texts and not self._silent and "jp-Cell-outputWrapper" in self._within:
            self.texts[-1] += data


@pytest.fixture(scope="module", params=["headless", "saved by JupyterLab"])
def exported(
    request: pytest.FixtureRequest, base: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The HTML of the notebook: executed where nobody looks on, and saved with its panels before it is converted."""
    folder = tmp_path_factory.mktemp("exported")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells_of(base, encoder)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "desk.ipynb")
    own = {"PEFT_NB_STORE": str(folder / "store"), "PYTHONPATH": str(Path(__file__).parents[1])}
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("VSCODE_", "JPY_SESSION"))}

    def nbconvert(*arguments: str, **more: str) -> None:
        command = [sys.executable, "-m", "nbconvert", *arguments, "desk.ipynb"]
        done = subprocess.run(command, cwd=folder, env=clean | own | more, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]

    if request.param == "headless":
        nbconvert("--to", "html", "--execute")
    else:  # as JupyterLab saves it: the kernel shows widgets, whose state is not kept
        unkept = "--ExecutePreprocessor.store_widget_state=False"
        nbconvert("--to", "notebook", "--execute", "--inplace", unkept, JPY_SESSION_NAME="desk.ipynb")
        nbconvert("--to", "html")
    return (folder / "desk.html").read_text("utf-8")


def test_each_panel_leaves_its_page(exported: str) -> None:
    said = Outputs(exported).texts
    assert len(said) == len(CELLS)
    found = list(zip(CELLS, said, CELLS.values(), strict=True))
    assert {cell: text for cell, text, wanted in found if any(words not in text for words in wanted)} == {}
    assert {cell: text for cell, text, _ in found if any(words in text for words in WRONG)} == {}
    assert 'role="progressbar"' not in exported

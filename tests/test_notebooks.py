"""The notebooks as they are committed, and executed with few rows and steps; the demo around the first."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from papermill.inspection import inspect_notebook
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from peft_nb.data import support_desk
from peft_nb.methods import REGISTRY

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MACHINE = re.compile(r"(?<![\w.<])/(home|mnt|opt|private|root|tmp|usr|var|work|Users)/|\b[A-Z]:\\")

FEW = support_desk.load()["eval"][:4]
TINY = "the random Llama of the tests"
SHORT: dict[str, dict[str, Any]] = {  # what takes little time; `make notebooks` executes them as they are
    "after_launch": {"epochs": 1, "labels": 12, "least_accuracy": 0.0},
    "documents_and_routing": {"model": TINY, "steps": 2, "order_steps": 2, "questions": 2, "compared_rows": 2},
    "images_and_speech": {
        "photos_each": 3,
        "photo_epochs": 1,
        "spoken": 4,
        "speech_epochs": 1,
        "base_steps": 2,
        "style_steps": 2,
    },
    "judge_and_compare": {"model": TINY, "steps": 2},
    "methods": {"model": TINY, "steps": 2},
    "own_data": {"model": TINY, "steps": 2, "epochs": 1},
    "preferences": {"model": TINY, "taught_steps": 2, "preferred_steps": 2, "rewarded_steps": 1},
    "quickstart": {"topics": ["opening-time", "cafe"]},
    "versions": {"held_out": FEW},
    "workshop": {"steps": 2},
}

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def tagged(path: Path, tag: str) -> list[str]:
    return [cell.source for cell in code_cells(path) if tag in cell.metadata.get("tags", [])]


@every_notebook
def test_it_is_valid_and_was_executed_from_top_to_bottom_without_an_error(path: Path) -> None:
    nbformat.validate(nbformat.read(path, as_version=4))
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


@every_notebook
def test_it_tells_nothing_of_the_machine_and_needs_no_widget_to_be_read(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert "widgets" not in notebook.metadata
    assert not [cell.metadata.execution for cell in notebook.cells if "execution" in cell.metadata]
    text = re.sub(r"base64,[\w+/=]+", "", path.read_text(encoding="utf-8"))
    assert not MACHINE.search(re.sub(r'"image/png": "[\w+/=\\]+"', "", text))


@every_notebook
def test_one_cell_takes_parameters_and_what_varies_is_not_compared(path: Path) -> None:
    assert len(tagged(path, "parameters")) == 1
    varying = [cell.source for cell in code_cells(path) if re.match(r"%%peft|.*\brun\.", cell.source, re.DOTALL)]
    assert varying
    assert set(varying) <= set(tagged(path, "nbval-ignore-output"))


@every_notebook
def test_what_is_made_short_is_a_parameter(path: Path) -> None:
    assert SHORT[path.stem].keys() <= inspect_notebook(str(path)).keys()


@pytest.mark.notebook
@every_notebook
def test_made_short_it_runs_from_top_to_bottom_and_tells_the_same(path: Path, base: Path, tmp_path: Path) -> None:
    parameters = {name: str(base) if value == TINY else value for name, value in SHORT[path.stem].items()}
    short = parameterize_notebook(load_notebook_node(str(path)), parameters)
    for cell in short.cells:
        if "varies-with-parameters" in cell.metadata.tags:
            cell.metadata.tags.append("nbval-ignore-output")
    nbformat.write(short, tmp_path / path.name)
    words = ["pytest", "--nbval", "--nbval-current-env", "--nbval-cell-timeout", "300", "--durations", "9", path.name]
    done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0


def test_the_quickstart_shows_the_curve_as_a_picture_and_the_run_as_text_too() -> None:
    cells = {cell.source: cell for cell in code_cells(FOLDER / "quickstart.ipynb")}
    assert "image/png" in cells["run.plot()"].outputs[0].data
    (training,) = [cell for source, cell in cells.items() if source.startswith("%%peft lora --data train")]
    (summary,) = training.outputs
    assert "finished" in summary.data["text/plain"]
    assert "data:image/png;base64," in summary.data["text/html"]


def rows(html: str) -> list[list[str]]:
    """The cells of a table without its head."""
    found = re.findall(r"<tr[^>]*>(.*?)</tr>", html.partition("<tbody>")[2], re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in found]


def test_the_notebook_on_methods_measured_what_it_tells() -> None:
    cells = {cell.source.partition("\n")[0]: cell for cell in code_cells(FOLDER / "methods.ipynb")}
    contenders = set(re.findall(r'^    "([\w-]+)": ', next(s.source for h, s in cells.items() if "contend" in h), re.M))
    (measured,) = cells['held_out = desk["eval"][:: len(desk["eval"]) // held_out_rows]'].outputs
    (table,) = cells['table = results.sort_values("eval_loss").set_index("method")'].outputs
    losses = {method: (before, after) for _, method, _, before, after, _ in rows(measured.data["text/html"])}
    told = rows(table.data["text/html"])
    assert {method: (before, after) for method, before, after, *_ in told} == losses
    assert losses.keys() == contenders <= REGISTRY.keys()
    assert len(contenders) >= 10
    assert [float(row[2]) for row in told] == sorted(float(row[2]) for row in told)
    assert all(float(after) < float(before) for before, after in losses.values())
    (picture,) = [cell for head, cell in cells.items() if head.startswith("styles = ")]
    assert "image/png" in picture.outputs[0].data
    assert all(re.search(rf"`{method}`", FOLDER.joinpath("methods.ipynb").read_text()) for method in contenders)
    (answers,) = [cell for head, cell in cells.items() if head.startswith("best, ")]
    assert re.search(rf"^{told[0][0]} +Ahoy!", answers.outputs[0].text, re.M)


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", FOLDER / "demo.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "demo")
    return module


METRICS = {
    "base_eval_loss": 4.5,
    "eval_loss": 0.25,
    "train_seconds": 95.2,
    "steps": 90,
    "trainable_parameters": 4_884_480,
    "trainable_share": 0.035,
    "peak_memory_mb": 2500.0,
    "adapter_mb": 19.6,
}
CELLS = f"""
from IPython.display import display
from types import SimpleNamespace
for _ in range(2):
    display(SimpleNamespace(step=1))

import pandas
answers = pandas.DataFrame([{{"question": "How?", "base": "long " * 40, "adapter": "Ahoy! So."}}])
score, held_out = {{"style": 3, "fact": 2, "right": 2}}, [1, 2, 3]
run = SimpleNamespace(metrics={METRICS})
"""


def notebook(path: Path, source: str) -> Path:
    cells = [nbformat.v4.new_code_cell(code) for code in source.strip().split("\n\n")]
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A title"), *cells]), path)
    return path


@pytest.mark.notebook
def test_the_demo_tells_how_far_it_is_and_what_changed_in_80_columns(
    demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "EVERY_S", 0.0)
    results: dict[str, Any] = demo.execute(notebook(tmp_path / "small.ipynb", CELLS))
    told = capsys.readouterr().out
    assert "cell 1 of 2: A title" in told
    assert "namespace(step=1)" in told
    report = demo.report(results)
    assert max(map(len, [*told.splitlines(), *report.splitlines()])) <= demo.WIDTH
    assert "How?" in report
    assert "4.500 → 0.250" in report
    assert "2 of 3 right" in report
    assert report.endswith("yourself.")
    kept = code_cells(demo.FOLDER / "small.ipynb")
    assert [cell.execution_count for cell in kept] == [1, 2]


@pytest.mark.notebook
def test_a_demo_that_fails_keeps_the_notebook_to_look_at(demo: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(CellExecutionError):
        demo.execute(notebook(tmp_path / "small.ipynb", "1 / 0"))
    (cell,) = code_cells(demo.FOLDER / "small.ipynb")
    assert cell.outputs[0].ename == "ZeroDivisionError"


def test_the_workshop_gives_hints_and_no_solutions_and_deletes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [cell.source for cell in code_cells(FOLDER / "workshop.ipynb")]
    assert not [source for source in cells if re.search(r"rmtree|unlink|remove\(", source)]
    (checker,) = [source for source in cells if "def check(" in source]
    names: dict[str, Any] = {}
    exec(checker[checker.index("def check(") :], names)
    (numbers,) = [source for source in cells if "trained = check(" in source]
    for answer, told in ((33_793, ""), (33_792, "33,792 numbers")):
        exec(numbers, names | {"trained": answer})
        said = capsys.readouterr().out
        assert ("33,792" in said) == bool(told)
        assert told in said
    (rate,) = [source for source in cells if "rate = check(" in source]
    for answer, right in ((1e-9, False), (0.002, True), (0.01, False)):
        exec(rate, names | {"rate": answer})
        assert ("✓ right" in capsys.readouterr().out) == right

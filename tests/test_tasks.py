"""Nothing but the registry knows which tasks there are; a package adds one in a file."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import peft_nb
from peft_nb.errors import SpecError
from peft_nb.spec import RunSpec
from peft_nb.tasks import TASKS, for_base, for_kind
from peft_nb.tasks.base import Task

PACKAGE = Path(peft_nb.__file__).parent
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"

# What a user of the package does with the task of the file.
USED = """
import json, sys
import pandas
import peft_nb
from peft_nb.magics import cell
from peft_nb.runs.run import active, begin, load
from peft_nb.spec import RunSpec
from peft_nb.events import StepLogged

encoder = sys.argv[1]
rows = [{"text": " ".join(["red"] * n + ["yard"] * (6 - n)), "label": str(n)} for n in range(7) for _ in range(8)]
spec = RunSpec(
    model=encoder, data="rows", task="number", max_steps=60, batch_size=16, learning_rate=0.01, dtype="float32",
    device="cpu", eval_steps=30, accept={"mean_error": "< 1"}, name="stars",
)

def stop(event):
    if isinstance(event, StepLogged) and event.step == 20:
        for run in active():
            run.stop()

run = begin(spec, namespace={"rows": rows}, listeners=[stop]).wait()
assert run.status == "stopped", run.reason
run = load(run.id).resume()
assert run.status == "finished", run.reason
print(json.dumps(run.metrics["mean_error"]))
print(json.dumps(run.predict(["red red red red red red", "yard yard yard yard yard yard"])["label"].tolist()))
assert run.metrics["verdict"].startswith("passed: mean_error"), run.metrics["verdict"]
assert load("stars").predict(["red yard yard"]).equals(run.predict(["red yard yard"]))
card = (run.save("saved") / "README.md").read_text()
assert "trained with peft_nb to read numbers off texts" in card and "| mean error |" in card, card
assert "- numbers about 3" in card, card
shown = repr(peft_nb.compare(run, prompts=["red red"]))
assert "mean error" in shown, shown
print(run.adapter._to_compare(None)[1])
print("number" in cell.usage(), "to read a number off a text" in cell.usage())
"""


def sources() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "tasks"]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_other_file_asks_which_task_it_is(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            names = [one.attr if isinstance(one, ast.Attribute) else one.id for one in sides if _named(one)]
            unset = all(isinstance(side, ast.Constant) and side.value is None for side in node.comparators)
            assert unset or "task" not in names, f"line {node.lineno} compares a task"
        if isinstance(node, ast.Attribute | ast.Name | ast.FunctionDef | ast.arg):
            name = getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "name", None) or ""
            assert not re.search(r"classif(y|ies)$", str(name)), f"line {node.lineno} asks whether it classifies"
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "TASKS":
            assert not isinstance(node.slice, ast.Constant), f"line {node.lineno} names a task"


def _named(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute | ast.Name)


def test_a_task_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(SpecError, match="no task is called 'clasification'; did you mean 'classification'"):
        RunSpec(data="x", task="clasification")


def test_rows_and_bases_find_their_task() -> None:
    assert (for_kind("labelled").name, for_kind("chat").name, for_kind("nothing").name) == (
        "classification",
        "generation",
        "generation",
    )
    assert (for_base("causal").name, for_base("encoder").name) == ("generation", "classification")
    assert for_base("speech").name == for_kind("audio").name == "speech-recognition"
    assert for_base("vision").name == for_kind("image").name == "image-classification"


def test_tasks_are_imported_without_torch() -> None:
    code = "import peft_nb.tasks, sys; print({'torch', 'transformers', 'peft', 'numpy'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_task_says_what_it_is(task: Task) -> None:
    for name in ("name", "help", "source", "learned", "instead", "pipeline_tag", "auto_class", "reader_class"):
        assert getattr(task, name) or (name, task.base) == ("reader_class", "diffusion")  # a pipeline reads by itself


@pytest.mark.exhaustive
def test_a_package_adds_a_task_in_one_file(tmp_path: Path, plain_encoder: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text(encoding="utf-8"), re.S)
    (tmp_path / "toy.py").write_text(code, encoding="utf-8")
    info = tmp_path / "toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[peft_nb.tasks]\nnumber = toy:TASK\n")
    path = os.pathsep.join([str(tmp_path), str(PACKAGE.parent)])
    command = [sys.executable, "-c", USED, str(plain_encoder)]
    ran = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    error, predicted, compared_on, help = ran.stdout.splitlines()
    high, low = json.loads(predicted)
    assert float(error) < 1
    assert high > 4 > 2 > low
    assert compared_on.endswith("evaluation rows")
    assert help == "True True"

"""Packages that add methods and layouts: directories with their dist-info, seen by a Python of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[1]
ADDED = """
from dataclasses import replace

from peft_nb.data.layouts import LAYOUTS
from peft_nb.methods import REGISTRY

METHOD = replace(REGISTRY["lora"], name="toy-lora", help="LoRA by another name.")
LAYOUT = replace(LAYOUTS["text"], name="toy_text")
WORD = "no method"
"""
SAID = """
import peft_nb
from peft_nb.data.layouts import LAYOUTS
from peft_nb.spec import RunSpec
from peft_nb.system import plugins

by_name = {field.name: field for field in RunSpec.describe()}
print([name for name in by_name["method"].choices if name.startswith("toy")])
print([name for name in by_name["format"].choices if name.startswith("toy")], "toy_text" in LAYOUTS)
print(plugins._installed.cache_info().misses, plugins._installed.cache_info().hits > 0)
"""


def install(folder: Path, name: str, module: str, points: str) -> None:
    """Put a package of one module there, with its entry points."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    (folder / f"{name}.py").write_text(module)


def run(code: str, folder: Path) -> tuple[str, str]:
    """What a Python that finds `folder` prints, on both streams."""
    path = os.pathsep.join([str(folder), str(REPO)])
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    return ran.stdout, ran.stderr


def test_a_package_adds_a_method_and_a_layout(tmp_path: Path) -> None:
    install(tmp_path, "toy", ADDED, "[peft_nb.methods]\ntoy = toy:METHOD\n\n[peft_nb.layouts]\ntoy = toy:LAYOUT\n")
    told, warned = run(SAID, tmp_path)
    assert told == "['toy-lora']\n['toy_text'] True\n1 True\n"
    assert warned == ""


def test_a_broken_package_is_told_in_a_line_and_breaks_nothing(tmp_path: Path) -> None:
    install(tmp_path, "absent", "import nothing_of_that_name\n", "[peft_nb.methods]\nbroken = absent:METHOD\n")
    install(tmp_path, "toy", ADDED, "[peft_nb.methods]\nword = toy:WORD\ntoy = toy:METHOD\nmissing = toy:NOTHING\n")
    told, warned = run(SAID, tmp_path)
    assert told.startswith("['toy-lora']\n")
    assert sorted(warned.splitlines()) == [
        "broken of absent 1.0 is left out: ModuleNotFoundError: No module named 'nothing_of_that_name'",
        "missing of toy 1.0 is left out: AttributeError: module 'toy' has no attribute 'NOTHING'",
        "word of toy 1.0 is left out: TypeError: toy:WORD is a str, not a Method",
    ]


def test_of_two_installations_of_a_package_the_first_counts(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        install(tmp_path / folder, "toy", f"WORD = '{folder}'\n", "[peft_nb.tasks]\ntoy = toy:WORD\n")
    code = (
        f"import sys; sys.path.insert(1, {str(tmp_path / 'second')!r}); sys.path.insert(1, {str(tmp_path / 'first')!r})"
    )
    told, _ = run(f"{code}\nfrom peft_nb.system.plugins import load; print(*load('peft_nb.tasks'))", tmp_path)
    assert told == "('toy', 'first')\n"

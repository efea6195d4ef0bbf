"""The files mybinder.org builds from, and the quickstart in the memory that it grants."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from peft_nb.models import ALIASES, bundled
from peft_nb.spec import RunSpec, notation

ROOT = Path(__file__).parents[1]
BINDER = ROOT / "binder"
LIMIT = 2_000_000_000  # bytes


def test_the_environment_takes_pytorch_for_the_cpu_from_conda_forge() -> None:
    read = yaml.safe_load((BINDER / "environment.yml").read_text(encoding="utf-8"))
    assert set(read) == {"name", "channels", "dependencies"}
    assert read["channels"][0] == "conda-forge"
    wanted = dict(re.fullmatch(r"([\w-]+)([=><].*)?", one).groups() for one in read["dependencies"])  # type: ignore[union-attr]
    assert {"python", "pytorch-cpu", "jupyterlab", "pip"} == wanted.keys()
    (bounds,) = re.findall(r'requires-python = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    low, high = (tuple(map(int, bound.split("."))) for bound in re.findall(r"[\d.]+", bounds))
    assert low <= tuple(map(int, wanted["python"].lstrip("=").split("."))) < high


def test_what_runs_after_the_build_is_a_script() -> None:
    script = BINDER / "postBuild"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")


@pytest.mark.exhaustive
def test_it_fetches_the_models() -> None:
    (code,) = re.findall(r"python -c '\n(.*?)'", (BINDER / "postBuild").read_text(encoding="utf-8"), re.DOTALL)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert all((bundled.where(alias) / "config.json").is_file() for alias in ALIASES.values())


# What is in a cell of its own in the notebook, in a process that may take no more.
QUICKSTART = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]),) * 2)
import peft_nb
run = peft_nb.train(**json.loads(sys.argv[2]))
answer = run.generate("How early in the morning do you open?", max_new_tokens=24)
shown = [run.metrics[name] for name in ("peak_memory_mb", "token_budget", "base_eval_loss", "eval_loss")]
print(json.dumps([answer, *shown]))
"""


@pytest.mark.notebook
@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what a process allocates")
def test_the_quickstart_trains_and_answers_within_two_gigabytes(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    (cell,) = [one.source for one in notebook.cells if one.source.startswith("%%peft lora --data train")]
    # Few steps to wait for; each holds about as much at once.
    few = {"data": "support-desk", "eval_data": None, "max_steps": 2, "judge": "off"}
    fields = {**notation.read_cell(cell, RunSpec.describe()).fields, **few}
    # pyarrow's usual allocator sets aside 1 GB that it never uses, which this limit counts and a container's does not.
    own = {"PEFT_NB_STORE": str(tmp_path), "PYTHONPATH": str(ROOT), "ARROW_DEFAULT_MEMORY_POOL": "system"}
    told = subprocess.run(
        [sys.executable, "-c", QUICKSTART, str(LIMIT), json.dumps(fields)],
        cwd=tmp_path,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    answer, peak, budget, before, after = json.loads(told.stdout.splitlines()[-1])
    assert answer
    assert budget < 2048  # the run takes less at once where memory is short
    assert after < before - 1
    assert peak < LIMIT / 1e6

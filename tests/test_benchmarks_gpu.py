"""The benchmark for machines with a GPU, as a whole, on a CPU with tiny shapes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.exhaustive
def test_it_measures_everything_and_prints_its_tables(tmp_path: Path) -> None:
    asked = [sys.executable, "benchmarks/gpu.py", "--tiny", "--results", str(tmp_path)]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    alone = [row for row in found["exactness"] if row["kernel"] == "each segment alone"]
    assert len(alone) == 12
    assert {row["found"] for row in alone} == {"exact"}
    assert {row["found"] for row in found["exactness"] if row not in alone} == {"needs a GPU"}
    assert [(row["contender"], row["failed"]) for row in found["speeds"]] == [("peft_nb", ""), ("trl-default", "")]
    ours, trl = found["speeds"]
    assert ours["first_loss"] == pytest.approx(trl["first_loss"], rel=1e-2)
    assert "skipped" in found["tests"]
    assert done.stdout.startswith(f"## On a GPU\n\n{found['machine']['card']}; ")
    assert "| Llama | float32 | each segment alone | shared |" in done.stdout
    assert "| tiny | with a system prompt | peft_nb |" in done.stdout

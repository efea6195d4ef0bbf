"""benchmarks/throughput.py: what its tables say, and trainers whose environment cannot be had."""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import throughput
from contenders import CONTENDERS, Measurement, prepare
from environments import ENVIRONMENTS, Environment, interpreter

OURS = Measurement("peft_nb", [2.0, 1.0], 500, 4.0, 3.0, 2.0, 70, "float32", 6e9, 10e9)


def test_the_table_shows_what_was_learned() -> None:
    again = replace(OURS, step_seconds=[1.0, 2.0])
    slow = replace(OURS, contender="trl-best", step_seconds=[4.0, 4.0], peak_mb=1000)
    head, _, ours, other = throughput.table([OURS, again, slow]).splitlines()
    assert [cell.strip() for cell in head.split("|")][7:10] == ["first loss", "last loss", "gradient norm"]
    assert "| 1.00 | 1.00 | 2.0 | 500 | 4.0000 | 3.0000 | 2.000 | 70 | 30% of 10 GFLOP/s |" in ours
    assert "| trl-best | float32 | 4.00 | 2.00 | 8.0 | 1000 |" in other


def test_who_trains_otherwise_is_named() -> None:
    alike = replace(OURS, contender="alike", last_loss=3.01)
    idle = replace(OURS, contender="idle", last_loss=4.0, gradient_norm=math.nan)
    rounded = replace(OURS, contender="rounded", last_loss=3.5, dtype="bfloat16")
    assert throughput.apart([OURS, alike, idle, rounded]) == [
        "idle: last loss 4.0000, peft_nb 3.0000",
        "idle: gradient norm nan, peft_nb 2.0000",
    ]


def test_an_environment_that_cannot_be_installed_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"CONFIG_FILE": "/dev/null", "NO_INDEX": "1", "FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    assert interpreter("other", Environment((), ()), tmp_path) is None
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "other is skipped, it could not be installed: ERROR: No matching distribution found for torch=="
    )


def test_contenders_find_their_interpreters() -> None:
    assert throughput.interpreters(["peft_nb", "trl-best"]) == dict.fromkeys(
        ("peft_nb", "trl-best"), Path(sys.executable)
    )
    assert Counter(name.partition("-")[0] for name in CONTENDERS).keys() >= ENVIRONMENTS.keys()


def test_a_job_has_the_rows_as_we_encode_them() -> None:
    job = prepare("smollm2-135m", [{"question": "What is 1 + 1?", "answer": "2."}], None)
    (only,) = job.examples
    tokens, supervised = len(only["input_ids"]), sum(label != -100 for label in only["labels"])
    assert len(only["labels"]) == tokens
    assert 0 < supervised < 8
    assert job.flops == 4 * (30 * 3_538_944 * tokens + 576 * 49_152 * supervised)

"""The other end of a run; how it trains is tested where it is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from peft_nb.events import Evaluated, Event, Resumed, StepLogged
from peft_nb.runs.executors.job import Job
from peft_nb.runs.executors.worker import History, execute
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from peft_nb.store.facts import Facts
from peft_nb.training.stop import StopFlag


def test_a_history_is_what_the_store_would_keep(store: Store) -> None:
    told: list[Event] = [
        Evaluated(0, 3.0, 0.1),
        *(StepLogged(step, step / 4, 3 - step / 2, 1e-3, 1.0, 10.0, 100.0, step) for step in (1, 2, 3)),
        Evaluated(2, 2.0),
        Resumed(2),
        StepLogged(3, 0.75, 1.0, 1e-3, 1.0, 10.0, 100.0, 9.0),
    ]
    id = store.create("data: x", method="lora", model="m")
    history = History([])
    for event in told:
        store.record(id, event)
        history(event)
    assert history.rows == store.history(id)
    assert History(history.rows).rows == history.rows


@pytest.mark.parametrize(
    ("spec", "packed", "error", "reason"),
    [
        ("data: x\nmodel: /no/such/model\n", '{"train": [{"text": "a"}, {"text": "b"}], "eval": null, "origin": "x",'
        ' "fingerprint": "f", "eval_fingerprint": "f", "changes": []}', "ModelError", "/no/such/model"),
        ("data: x\n", "{}", "RunError", "the rows of the run did not arrive"),
        ("data: x\nr: 0\n", "{}", "SpecError", "r: 0 is below"),
        ("data: x\n", "nonsense", "", "JSONDecodeError"),
    ],
    ids=["an error of ours", "no rows", "a wrong spec", "what nobody foresaw"],
)  # fmt: skip
def test_whatever_fails_is_told_last(spec: str, packed: str, error: str, reason: str, tmp_path: Path) -> None:
    messages: list[tuple[str, dict[str, Any]]] = []
    job = Job("lora-abc", spec, Facts(layout="text").to_json(), {}, [], False)
    folder = tmp_path / "runs" / "lora-abc"
    folder.mkdir(parents=True)
    execute(job, packed, folder, StopFlag(), lambda kind, told: messages.append((kind, told)))
    kind, told = messages[-1]
    assert (kind, told["how"], told["error"]) == ("end", "failed", error)
    assert reason in told["reason"]
    assert ("Traceback" in told.get("story", "")) is (error == "")


def test_a_notebook_that_is_gone_stops_the_run(tmp_path: Path) -> None:
    """Its pipes are closed: the process ends by itself."""
    process = subprocess.Popen(
        [sys.executable, "-m", "peft_nb.runs.executors.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        text=True,
    )
    assert process.stdin
    assert process.stdout
    process.stdout.close()
    job = Job("lora-abc", RunSpec(data="x").to_yaml(), "{}", {}, [], False)
    process.stdin.write(f'{{"job": {json.dumps(job.to_json())}, "rows": "{{}}", "folder": "{tmp_path}"}}\n')
    process.stdin.close()
    assert process.wait(60) == 0

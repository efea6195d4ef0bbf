"""Runs in processes of their own, which are really started, stopped and killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from peft_nb.errors import RunError
from peft_nb.events import Event, StepLogged
from peft_nb.runs.run import Run, begin
from peft_nb.spec import RunSpec
from peft_nb.spec.place import Place
from peft_nb.store import Store
from tests import images
from tests.conftest import stop_at

pytestmark = pytest.mark.exhaustive

HELD_OUT = {"eval_data": "asked", "regression": "kept", "judge": "quick", "accept": {"eval_loss": "< 100"}}


@pytest.fixture(scope="module")
def started(spec: Callable[..., RunSpec], rows: list[dict[str, str]], runs: Store) -> Callable[..., Run]:
    """Begin a run on rows of the notebook's memory, somewhere."""
    namespace = {"tickets": rows, "asked": rows[:4], "kept": rows[4:6]}

    def started(on: str, *listeners: Any, **fields: Any) -> Run:
        described = spec(**{"data": "tickets", **fields})
        return begin(described, namespace=namespace, listeners=listeners, store=runs, place=Place.of(on=on))

    return started


def losses(run: Run) -> list[float]:
    found: list[float] = run.history.loss.dropna().tolist()
    return found


def test_two_processes_give_the_curve_of_one_and_the_same_verdict(started: Callable[..., Run]) -> None:
    alone = started("here", **HELD_OUT).wait()
    both = started("local:2", **HELD_OUT).wait()
    assert (both.status, both.facts.place) == ("finished", None)
    assert losses(both) == pytest.approx(losses(alone), rel=1e-3)
    for metric in ("eval_loss", "base_eval_loss", "forgetting"):
        assert both.metrics[metric] == pytest.approx(alone.metrics[metric], rel=1e-3, abs=1e-4), metric
    assert both.metrics.keys() ^ alone.metrics.keys() <= {"forecast_memory_mb", "forecast_seconds"}
    assert both.metrics["verdict"] == alone.metrics["verdict"]
    assert both.judgement.keys() == alone.judgement.keys()
    assert both.store.verify(both.id) == {}
    assert both.generate("Hello", max_new_tokens=8) == alone.generate("Hello", max_new_tokens=8)


def test_two_processes_learn_of_images_what_one_does(vision: Path, runs: Store) -> None:
    pictures = images.rows(12)
    fields = {"model": str(vision), "dtype": "float32", "device": "cpu", "batch_size": 4, "max_steps": 3}
    spec = RunSpec(data="pictures", task="image-classification", learning_rate=5e-3, eval_fraction=0.34, **fields)
    alone, both = (
        begin(spec, namespace={"pictures": pictures}, store=runs, place=Place.of(on=on)).wait()
        for on in ("here", "local:2")
    )
    assert both.status == "finished"
    assert losses(both) == pytest.approx(losses(alone), rel=1e-3)
    assert both.metrics["eval_loss"] == pytest.approx(alone.metrics["eval_loss"], rel=1e-3)
    assert both.predict(pictures[0]["image"]).label[0] == alone.predict(pictures[0]["image"]).label[0]


def test_two_processes_learn_to_draw(drawing: Path, runs: Store) -> None:
    pictures = [{"image": row["image"], "text": row["label"]} for row in images.rows(12)]
    fields = {"model": str(drawing), "dtype": "float32", "device": "cpu", "batch_size": 4, "max_steps": 3}
    spec = RunSpec(data="pictures", task="text-to-image", eval_fraction=0.34, **fields)
    alone, both = (
        begin(spec, namespace={"pictures": pictures}, store=runs, place=Place.of(on=on)).wait()
        for on in ("here", "local:2")
    )
    assert both.status == "finished"
    assert losses(both) == pytest.approx(losses(alone), rel=1e-3)


def test_a_run_is_stopped_and_goes_on_here_as_if_nothing_had_been(started: Callable[..., Run], finished: Run) -> None:
    run = started("local:1", stop_at(3)).wait()
    assert (run.status, run.reason) == ("stopped", f"after step {run.metrics['steps']}")
    assert 3 <= run.metrics["steps"] < 8
    run.resume()
    assert losses(run) == pytest.approx(losses(finished), rel=1e-3)


def test_a_process_that_is_killed_is_told_in_a_line(started: Callable[..., Run]) -> None:
    def kill(event: Event) -> None:
        if isinstance(event, StepLogged):
            for child in psutil.Process().children():
                if "peft_nb.runs.executors.worker" in child.cmdline():
                    os.kill(child.pid, signal.SIGKILL)

    run = started("local:1", kill, max_steps=200, save_steps=1)
    with pytest.raises(RunError, match=r"^process 1 of 1 died \(signal SIGKILL; most likely memory ran out\); resume"):
        run.wait()
    assert run.status == "failed"


def test_what_is_wrong_with_the_run_is_the_error_it_would_be_here(started: Callable[..., Run]) -> None:
    with pytest.raises(RunError, match=r"init_adapter|no such|device: there is no 'cuda' here"):
        started("local:2", device="cuda").wait()

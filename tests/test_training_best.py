"""The adapter of the lowest eval loss is the one that is kept, also when a run was stopped in between."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peft_nb.errors import StoreError
from peft_nb.events import Notice
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from peft_nb.training.best import Best
from tests.conftest import few, file_size_limit, stop_at

pytestmark = pytest.mark.exhaustive

Start = Callable[..., Run]
# Soon the few rows are known by heart, and what is held out gets worse.
OVERFITS: dict[str, Any] = {"learning_rate": 0.03, "lr_scheduler_type": "constant", "max_steps": 40, "eval_steps": 2}


def weights(run: Run) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(run.adapter_dir / "adapter_model.safetensors")


def equal(one: Run, other: Run) -> bool:
    mine, theirs = weights(one), weights(other)
    return mine.keys() == theirs.keys() and all((mine[name] == theirs[name]).all() for name in mine)


def evals(run: Run) -> dict[int, float]:
    history = run.history
    return {int(step): loss for step, loss in zip(history.step, history.eval_loss, strict=True) if not math.isnan(loss)}


def test_what_was_best_is_kept_and_found_again(tmp_path: Path) -> None:
    best, saved = Best(tmp_path / "best", 2), []

    def save(folder: Path) -> None:
        saved.append(folder)
        (folder / "adapter").write_text("x")

    for step, loss in ((2, 3.0), (4, 2.0), (6, 2.5)):
        best.offer(step, loss, save)
    assert (best.step, best.loss, best.since, best.exhausted, len(saved)) == (4, 2.0, 1, False, 2)
    again = Best(tmp_path / "best", 2)
    assert (again.step, again.loss) == (4, 2.0)
    again.offer(4, 2.0, save)
    again.offer(6, math.nan, save)
    again.offer(8, 2.0, save)
    assert (again.since, again.exhausted, len(saved)) == (2, True, 2)
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == ["adapter", "best.json"]


def test_when_the_disk_refuses_what_was_best_before_stays(tmp_path: Path) -> None:
    best = Best(tmp_path / "best", None)
    best.offer(1, 3.0, lambda folder: None)
    with file_size_limit(10), pytest.raises(StoreError):
        best.offer(2, 2.0, lambda folder: None)
    assert (best.step, best.loss) == (1, 3.0)
    assert Best(tmp_path / "best", None).step == 1


def test_the_adapter_with_the_lowest_held_out_loss_is_saved(start: Start) -> None:
    fields = OVERFITS | {"max_steps": 6}  # rounding decides which of many later steps is the best
    run = start(**fields, load_best_model_at_end=True).wait()
    found = evals(run)
    best = min(list(found)[1:], key=found.__getitem__)
    assert 0 < best < 6
    assert (run.metrics["best_step"], run.metrics["eval_loss"]) == (best, found[best])
    assert run.metrics["steps"] == 6
    assert not (run.folder / "checkpoints").exists()
    assert equal(run, start(**fields | {"max_steps": best}).wait())
    assert not equal(run, start(**fields).wait())
    prompt = "Where do your customers park?"
    assert run.generate(prompt, max_new_tokens=12) == load(run.id, store=run.store).generate(prompt, max_new_tokens=12)


@pytest.fixture(scope="module")
def patient(spec: Callable[..., RunSpec], rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that ends when the eval loss has not fallen for long."""
    store = Store(tmp_path_factory.mktemp("patient"))
    return begin(spec(**OVERFITS, early_stopping_patience=2), data=rows, store=store).wait()


def test_training_ends_when_the_held_out_loss_has_not_fallen_for_long(patient: Run) -> None:
    run = patient
    found = evals(run)
    assert run.status == "finished"
    assert run.metrics["steps"] == run.metrics["best_step"] + 4 < 40
    assert max(found) == run.metrics["steps"]
    told = f"stopped early: the eval loss has not fallen below that of step {run.metrics['best_step']} since"
    assert Notice(told) in run.events()
    assert run.history.step.max() == run.metrics["steps"]


@pytest.mark.parametrize("step", [3, 9])
def test_stopping_and_resuming_changes_neither_the_best_nor_the_end(start: Start, patient: Run, step: int) -> None:
    whole, run = patient, start(stop_at(step), **OVERFITS, early_stopping_patience=2).wait()
    assert run.status == "stopped"
    run.resume()
    assert (run.status, run.metrics["steps"]) == ("finished", whole.metrics["steps"])
    assert evals(run) == pytest.approx(evals(whole))
    assert run.metrics["best_step"] == whole.metrics["best_step"]
    assert equal(run, whole)


@pytest.mark.parametrize("method", few(["adalora", "pissa"], "adalora"))
def test_methods_that_keep_more_than_their_weights_go_back_whole(start: Start, method: str) -> None:
    options = OVERFITS | {"method": method, "max_steps": 12}
    run = start(**options, load_best_model_at_end=True).wait()
    prompt = "Where do your customers park?"
    assert run.metrics["best_step"] <= 12
    assert run.generate(prompt, max_new_tokens=12) == load(run.id, store=run.store).generate(prompt, max_new_tokens=12)


def test_a_classifier_is_scored_with_what_was_best(encoder: Path, labelled: list[dict[str, str]], store: Store) -> None:
    same: dict[str, Any] = {"model": str(encoder), "data": "(in memory)", "task": "classification", "judge": "off"}
    same |= {"learning_rate": 0.3, "lr_scheduler_type": "constant", "max_steps": 12, "eval_steps": 2}
    run = begin(RunSpec(**same, load_best_model_at_end=True), data=labelled, store=store).wait()
    best = run.metrics["best_step"]
    assert best < 12
    again = begin(RunSpec(**same | {"max_steps": best}), data=labelled, store=store).wait()
    assert again.metrics["accuracy"] == run.metrics["accuracy"]
    assert again.metrics["eval_loss"] == pytest.approx(run.metrics["eval_loss"])

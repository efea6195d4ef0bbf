from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import peft_nb
from peft_nb.errors import RunError, SpecError
from peft_nb.runs.sweeps import search
from peft_nb.runs.sweeps.search import Search
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from peft_nb.ui.sweep import Sweep

SMALL = {"dtype": "float32", "device": "cpu", "batch_size": 5, "max_steps": 2, "judge": "off"}


def opened(swept: Search) -> Sweep:
    return Sweep("tickets", swept.store)


def test_a_sweep_from_python_ends_with_the_best_run(
    base: Path, rows: list[dict[str, str]], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    done = peft_nb.sweep({"learning_rate": [1e-4, 1e-2]}, data=rows, model=str(base), store=store, **SMALL)
    assert (done.status, len(done.trials)) == ("finished", 2)
    assert done.best().spec.learning_rate == 1e-2
    assert done.best().metrics["eval_loss"] == done.table["eval_loss"].min()
    told = capsys.readouterr().out
    assert "trial 1 finished (learning_rate" in told
    assert "Best by eval loss: trial" in told
    with pytest.raises(RunError, match="this kernel is not at work on it"):
        done.stop()


def test_train_with_a_sweep_gives_the_best_run(
    base: Path, rows: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFT_NB_STORE", str(tmp_path / "store"))
    run = peft_nb.train(data=rows, model=str(base), sweep={"learning_rate": [1e-4, 1e-2]}, trials=2, **SMALL)
    assert run.spec.learning_rate == 1e-2
    with pytest.raises(SpecError, match=r"^sweep: takes its fields beside it"):
        peft_nb.train(data=rows, sweep={"r": [4, 8]}, background=True)


def test_in_the_background_it_can_be_awaited_stopped_and_resumed(
    base: Path, rows: list[dict[str, str]], store: Store
) -> None:
    small = {**SMALL, "max_steps": 400}
    begun = peft_nb.sweep(
        {"learning_rate": [1e-4, 1e-2]}, data=rows, model=str(base), store=store, background=True, **small
    )
    assert begun.at_work
    assert Sweep(begun.id, store).at_work  # whoever opens it meanwhile can stop it
    begun.stop()
    assert begun.wait().status == "stopped"
    assert not begun.at_work
    with pytest.raises(RunError, match="no best trial"):
        begun.best()


def test_what_came_of_it(swept: Search) -> None:
    done = opened(swept)
    assert done.id == swept.id
    assert done.spec.changed() == swept.spec.changed()
    assert done.best(by="trainable_parameters").spec.method == "ia3"
    front = done.front(by=["eval_loss", "trainable_parameters"])
    assert front.index[0] == done.table[done.table["state"] == "finished"]["eval_loss"].idxmin()
    assert list(front["trainable_parameters"]) == sorted(front["trainable_parameters"], reverse=True)
    assert set(done.importances) <= {"method", "r", "learning_rate"}


def test_it_is_drawn(swept: Search) -> None:
    done = opened(swept)
    assert done.plot()._repr_png_()
    axes = done.plot("learning_rate", "eval_loss").axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("learning_rate", "eval loss", "log")
    with pytest.raises(RunError, match="has both accuracy and eval_loss"):
        done.plot("accuracy")


def test_a_terminal_sees_text_and_a_notebook_a_page(swept: Search) -> None:
    done = opened(swept)
    assert repr(done).startswith("tickets: finished, 8 trials")
    assert "<svg" in done._repr_html_()


def test_resumed_with_more_trials(searching: Callable[..., Search], rows: Any, store: Store) -> None:
    begun = searching(store, trials=1, max_steps=1)
    begun.wait()
    done = Sweep(begun.id, store).resume(trials=2, data=rows)
    assert [one.state for one in done.trials] == ["finished", "finished"]
    assert search.active() == []
    assert RunSpec.from_yaml(store.get(str(done.trials[1].run)).spec_yaml).max_steps == 1

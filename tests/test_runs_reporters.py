"""Trackers are told the losses of a run if its spec names them, by transformers' own callbacks, and never stop it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import transformers.integrations

from peft_nb.errors import SpecError
from peft_nb.events import Evaluated, Notice, Planned, StatusChanged, StepLogged
from peft_nb.runs import energy, reporters
from peft_nb.runs.reporters import Reporter
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import RunSpec
from peft_nb.spec.fields import TRACKERS
from peft_nb.store import Store
from tests.conftest import stop_at

PLAN = Planned(3, 20, 2, 300, 1000, 9000, "float32", "cpu", "padding-free")


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What was written for TensorBoard, read by itself."""
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(folder))
    read.Reload()
    found = {tag: {one.step: one.value for one in read.Scalars(tag)} for tag in read.Tags()["scalars"]}
    return found | {"texts": read.Tags()["tensors"]}


def test_every_tracker_is_a_callback_of_transformers() -> None:
    assert set(TRACKERS) - {energy.METER} == set(reporters.CALLBACKS)
    assert all(hasattr(transformers.integrations, name) for name in reporters.CALLBACKS.values())


def test_tensorboard_is_told_the_losses_under_their_usual_names(
    spec: Callable[..., RunSpec], rows: list[Any], store: Store
) -> None:
    run = begin(spec(report_to="tensorboard", max_steps=4, eval_steps=2), data=rows, store=store).wait()
    found, history = scalars(run.folder / "tensorboard"), run.history.set_index("step")
    for tag, column in {
        "train/loss": "loss",
        "train/learning_rate": "learning_rate",
        "train/grad_norm": "grad_norm",
        "eval/loss": "eval_loss",
        "eval/token_accuracy": "token_accuracy",
    }.items():
        assert found[tag] == pytest.approx(history[column].dropna().to_dict(), rel=1e-6)
    assert found["train/epoch"][4] == pytest.approx(history["epoch"][4])
    assert any("args" in text for text in found["texts"])


def test_a_resumed_run_goes_on_in_the_same_place(spec: Callable[..., RunSpec], rows: list[Any], store: Store) -> None:
    wanted = spec(report_to="tensorboard", max_steps=6, save_steps=1)
    stopped = begin(wanted, data=rows, store=store, listeners=[stop_at(2)]).wait()
    run = load(stopped.id, store=store).resume()
    losses = scalars(run.folder / "tensorboard")["train/loss"]
    assert losses == pytest.approx(run.history.set_index("step")["loss"].dropna().to_dict(), rel=1e-6)


def test_without_a_word_nothing_is_told_to_anybody(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in reporters.CALLBACKS.values():

        def refuse(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("a tracker was made unasked")

        monkeypatch.setattr(getattr(transformers.integrations, name), "__init__", refuse)
    monkeypatch.setenv("WANDB_PROJECT", "x")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    monkeypatch.setenv("TRACKIO_SPACE_ID", "a/b")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    assert start(max_steps=1).wait().status == "finished"
    assert not (tmp_path / "logs").exists()


def test_a_missing_package_is_told_before_anything_is_loaded(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporters, "find_spec", lambda name: None if name == "wandb" else name)
    with pytest.raises(SpecError, match="^report_to: wandb needs the package wandb; %pip install wandb$"):
        start(report_to="wandb,tensorboard")
    with pytest.raises(SpecError, match="report_to: nothing is reported to 'wandbb'; did you mean"):
        start(report_to="wandbb")


def test_a_tracker_that_fails_is_warned_of_once_and_training_goes_on(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route; key sk-proj-Zq8vT3nB6xWm2LpR9cYd4KfH7sJg was refused\nand more")

    monkeypatch.setattr(transformers.integrations.TensorBoardCallback, "on_log", fail)
    told: list[Any] = []
    run = start(told.append, report_to="tensorboard", max_steps=3).wait()
    assert run.status == "finished"
    (warning,) = [one for one in told if isinstance(one, Notice) and "reporting" in one.text]
    assert warning.level == "warning"
    assert warning.text.startswith("reporting to tensorboard failed (ConnectionError: no route; key [secret]")
    assert "more" not in warning.text
    assert "sk-proj" not in "".join(file.read_text("utf-8", "replace") for file in run.folder.rglob("*.*"))


class Recorded:
    """A callback that writes down what it is told."""

    made: ClassVar[list[Recorded]] = []

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.made.append(self)

    def on_train_begin(self, args: Any, state: Any, control: Any) -> None:
        """Keep what a tracker would send as the run's settings."""
        self.calls.append((args.run_name, args.to_dict(), json.loads(args.to_json_string()), state.max_steps))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any) -> None:
        """Keep the numbers."""
        self.calls.append((state.global_step, logs))

    def on_train_end(self, args: Any, state: Any, control: Any) -> None:
        """Keep that it ended."""
        self.calls.append("end")


def test_settings_are_told_as_on_the_card_and_numbers_that_are_none_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.integrations, "WandbCallback", Recorded)
    told: list[Any] = []
    spec = RunSpec(data="/home/somebody/rows.csv", system="key sk-proj-Zq8vT3nB6xWm2LpR9cYd4KfH7sJg")
    report = Reporter("wandb", spec, "lora-1", tmp_path, told.append)
    report(StepLogged(1, 0.1, 1.0, 1e-4, 1.0, 1.0, 1.0, 1.0))  # before there is anything to tell
    for event in (
        PLAN,
        StatusChanged("training"),
        Evaluated(0, 2.5, 0.5),
        StepLogged(1, 0.1, 2.0, 1e-4, float("nan"), 900.0, 1500.0, 0.3),
        StatusChanged("finished"),
        StepLogged(2, 0.2, 1.0, 1e-4, 1.0, 1.0, 1.0, 1.0),
    ):
        report(event)
    settings = {"data": "rows.csv", "system": "key [secret]"}
    assert Recorded.made[-1].calls == [
        ("lora-1", settings, settings, 3),
        (0, {"eval_loss": 2.5, "eval_token_accuracy": 0.5, "epoch": 0.0}),
        (1, {"loss": 2.0, "learning_rate": 1e-4, "epoch": 0.1}),
        "end",
    ]
    assert told == []


def test_a_spec_names_trackers_in_one_word_or_many() -> None:
    assert RunSpec(data="x", report_to="none").report_to == []
    assert RunSpec(data="x", report_to=["tensorboard", "wandb", "wandb"]).report_to == ["wandb", "tensorboard"]
    spec = RunSpec(data="x", report_to="trackio,mlflow")
    assert RunSpec.from_yaml(spec.to_yaml()) == RunSpec.from_magic(spec.to_magic()) == spec

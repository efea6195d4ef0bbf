"""``python -m peft_nb train``, on one process and on two."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peft_nb.__main__ import main
from peft_nb.methods import complete
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import RunSpec
from peft_nb.spec.sweep import SweepSpec
from peft_nb.store import Store

pytestmark = pytest.mark.exhaustive


def run_module(*words: object, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m`` with the store in a folder."""
    inherited = {name: value for name, value in os.environ.items() if name != "PEFT_NB_STORE"}
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=inherited | environment, capture_output=True, text=True)


def losses(run: Run) -> list[float]:
    history = run.history
    return history.loss[history.loss.notna()].tolist()


@pytest.fixture(scope="module")
def described(spec: Callable[..., RunSpec], rows_file: Path) -> RunSpec:
    """Steps of 5, 5, 5, 5 and 1 rows, twice: no number of processes shares them out evenly."""
    return spec(data=str(rows_file), max_steps=10, eval_steps=5, name="cli")


@pytest.fixture(scope="module")
def alone(described: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """What the command leaves in the store on one process."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "spec.yaml").write_text(described.to_yaml())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEFT_NB_STORE", str(folder / "runs"))
        assert main(["train", str(folder / "spec.yaml")]) == 0
        yield load("cli")


def test_a_file_is_trained(alone: Run, described: RunSpec, tmp_path: Path) -> None:
    assert (alone.status, alone.spec) == ("finished", complete(described))
    assert alone.history.step.tolist() == list(range(11))
    assert losses(alone)[-1] < losses(alone)[0]
    assert isinstance(alone.generate("Hello", max_new_tokens=4), str)
    assert (alone.save(tmp_path / "adapter") / "adapter_model.safetensors").is_file()


def test_a_file_with_several_values_is_swept(
    described: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PEFT_NB_STORE", str(tmp_path / "runs"))
    common = {**described.changed(), "max_steps": 2}
    del common["learning_rate"]
    file = tmp_path / "spec.yaml"
    file.write_text(SweepSpec(**common, sweep={"learning_rate": [1e-4, 1e-2]}).to_yaml())
    assert main(["train", str(file), "--trials", "2"]) == 0
    assert "Best by eval loss: trial" in capsys.readouterr().out
    assert [one.state for one in Store().sweeps.get("cli").trials] == ["finished", "finished"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", str(file)]) == 1
    assert capsys.readouterr().err == "sweep: runs its trials in one process; start it without torchrun\n"


def on_two_processes(spec: RunSpec, folder: Path) -> Run:
    """What the command leaves in the store on two processes."""
    (folder / "spec.yaml").write_text(spec.to_yaml())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ("torch.distributed.run", "--nproc_per_node", 2, "--master_port", port, "-m")
    done = run_module(*launch, "peft_nb", "train", "spec.yaml", folder=folder, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" finished\n") == 1
    store = Store(folder / "peft_runs")
    (record,) = store.all()
    run = load(record.id, store=store)
    assert run.status == "finished"
    return run


def test_two_processes_learn_by_reward_as_one(
    described: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "def vowels(completion, answer):\n    return completion.count('e') / max(1, len(completion))\n"
    (tmp_path / "judge_of_two.py").write_text(own)
    monkeypatch.syspath_prepend(tmp_path)
    grpo = {"task": "grpo", "reward": "judge_of_two:vowels", "beta": 0.1, "scale_rewards": "batch"}
    small = {"num_generations": 4, "max_completion_length": 8, "max_steps": 6, "eval_steps": 3}
    described = RunSpec(**{**described.to_dict(), **grpo, **small, "learning_rate": 1e-3})
    alone = begin(described, store=Store(tmp_path / "alone")).wait()
    both = on_two_processes(described, tmp_path)
    for column in ("loss", "reward", "reward_std", "completion_length", "equal_rewards", "kl", "eval_reward"):
        (ours, theirs) = (run.history[column].dropna().tolist() for run in (both, alone))
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5), column
    for metric in ("base_eval_reward", "eval_reward", "equal_rewards", "reward"):
        assert both.metrics[metric] == pytest.approx(alone.metrics[metric], rel=1e-3), metric


def test_two_processes_give_the_curve_of_one(alone: Run, described: RunSpec, tmp_path: Path) -> None:
    run = on_two_processes(described, tmp_path)
    assert losses(run) == pytest.approx(losses(alone), rel=1e-3)
    for metric in ("base_eval_loss", "eval_loss", "train_loss"):
        assert run.metrics[metric] == pytest.approx(alone.metrics[metric], rel=1e-3)
    assert run.metrics["supervised_tokens"] == alone.metrics["supervised_tokens"]
    assert run.generate("Hello", max_new_tokens=8) == alone.generate("Hello", max_new_tokens=8)


def test_another_process_trains_what_this_one_shows(
    alone: Run, described: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spec.yaml").write_text(described.to_yaml())
    monkeypatch.setenv("PEFT_NB_STORE", str(tmp_path / "runs"))
    assert main(["train", str(tmp_path / "spec.yaml"), "--on", "local:1"]) == 0
    assert losses(load("cli")) == pytest.approx(losses(alone), rel=1e-3)


def test_processes_are_started_by_one_alone(
    described: RunSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", *described.to_argv(), "--on", "local:2"]) == 1
    assert capsys.readouterr().err.startswith("--on local:2: torchrun has started the processes already")


def test_a_wrong_spec_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("data: support-desk\nlearning_rat: 1\n")
    done = run_module("peft_nb", "train", "spec.yaml", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "learning_rat: no such field; did you mean 'learning_rate'?\n"
    assert not (tmp_path / "peft_runs").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trian", "spec.yaml"], "no command 'trian'; did you mean 'train'?"),
        (["train", "missing.yaml"], "missing.yaml"),
        (["train", "--data", "no_such_data"], "no data named 'no_such_data'"),
        (["train", "--data", "support-desk", "--on", "mars"], "on: 'mars' is no place; write here, local:2, ray or"),
        (["train", "--data", "support-desk", "--r", "0"], "r: 0 is below the smallest allowed value 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_mistakes_are_one_line_too(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert line in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["help"], ["--help"]])
def test_help_names_the_commands_and_every_field(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: python -m peft_nb train")
    assert all(field.flag in shown for field in RunSpec.describe())


def test_a_reader_that_has_had_enough_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m peft_nb help | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")

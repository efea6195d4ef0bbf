from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas
import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb.errors import CommandError, PeftNbError, SpecError
from peft_nb.magics import give_body, load_ipython_extension, unload_ipython_extension
from peft_nb.magics.line import COMMANDS
from peft_nb.spec import RunSpec


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PEFT_NB_STORE", str(tmp_path / "store"))
    shell = InteractiveShell.instance()
    load_ipython_extension(shell)
    yield shell
    unload_ipython_extension(shell)
    InteractiveShell.clear_instance()


def refused(shell: InteractiveShell, source: str) -> BaseException:
    error = shell.run_cell(source).error_in_exec
    assert isinstance(error, PeftNbError)
    return error


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("%peft shwo run", "%peft shwo: no such command; did you mean 'show'?"),
        ("%peft frobnicate", "%peft frobnicate: no such command; %peft help lists all"),
        ("%peft save run", "%peft save: something is missing; write %peft save RUN PATH"),
        (
            "%peft merge run --dtype float32",
            "%peft merge takes a run and a folder; write %peft merge RUN PATH [--dtype DTYPE] [--max-kl X]",
        ),
        ("%peft merge run there --max-kl none", "--max-kl none: not a number; write one such as 0.01"),
        ("%peft stop a b", "b: unexpected; write %peft stop [RUN]"),
        ("%peft runs --all", "--all: %peft runs has no such flag; write %peft runs"),
        ("%peft load x --out 2x", "--out 2x: not a name for a variable; write one such as run"),
        ("%peft load x --out", "--out : not a name for a variable; write one such as run"),
        ("%peft show 'x", "a quotation mark is not closed in: show 'x"),
        ("%peft show {mine}", "{mine}: there is no variable mine to fill in"),
        (
            "%%peft lora --data $tickts",
            "$tickts: there is no variable tickts to fill in; did you mean 'tickets'?",
        ),
    ],
)
def test_a_mistyped_command_is_one_line(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], source: str, said: str
) -> None:
    shell.user_ns["tickets"] = []
    error = refused(shell, source)
    assert isinstance(error, CommandError)
    assert str(error) == said
    assert capsys.readouterr().out.strip() == f"CommandError: {said}"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("%peft help learning_rat", "did you mean 'learning_rate'?"),
        ("%peft help lroa", "did you mean 'lora'?"),
        ("%peft train missing.yaml", "missing.yaml"),
        ("%%peft lora --epoch 3", "did you mean '--epochs'?"),
        ("%%peft lora --epochs", "--epochs"),
        ("%%peft lora qlora", "qlora"),
        ("%%peft lora --data 'x", "quotation mark"),
    ],
)
def test_mistakes_in_fields_are_command_errors_too(shell: InteractiveShell, source: str, said: str) -> None:
    error = refused(shell, source)
    assert isinstance(error, CommandError)
    assert said in str(error)
    assert "\n" not in str(error)


def test_all_wrong_fields_are_named_at_once(shell: InteractiveShell) -> None:
    error = refused(shell, "%%peft lroa --data tickets\nlearning_rat: 1\nr: 0")
    assert isinstance(error, SpecError)
    assert [problem.split(":")[0] for problem in error.problems] == ["method", "r", "learning_rat"]


def test_a_cell_without_body_still_is_a_cell(shell: InteractiveShell) -> None:
    error = refused(shell, "%%peft")
    assert isinstance(error, SpecError)
    assert "data" in str(error)


@pytest.mark.parametrize(
    ("lines", "given"),
    [
        (["%%peft\n"], ["%%peft\n", "\n"]),
        (["%%peft lora --data x\n"], ["%%peft lora --data x\n", "\n"]),
        (["%%peft lora\n", "r: 8\n"], ["%%peft lora\n", "r: 8\n"]),
        (["%%peft?\n"], ["%%peft?\n"]),
        (["%peft runs\n"], ["%peft runs\n"]),
        (["%%time\n"], ["%%time\n"]),
    ],
)
def test_only_a_bare_peft_cell_is_given_a_body(lines: list[str], given: list[str]) -> None:
    assert give_body(lines) == given


def test_question_marks_show_generated_help(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("IPython.core.page.page", lambda text, *_, **__: shown.append(text["text/plain"]))
    shell.run_cell("%%peft?")
    shell.run_cell("%peft?")
    cell, line = shown
    assert not [field.flag for field in RunSpec.describe() if field.flag not in cell]
    assert "lora: " in cell
    assert not [name for name in COMMANDS if f"%peft {name}" not in line]


@pytest.mark.parametrize("topic", ["", "resume", "lora", "training", "learning-rate"])
def test_help_knows_every_kind_of_topic(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], topic: str
) -> None:
    assert shell.run_cell(f"%peft help {topic}").success
    assert topic.replace("-", "_") in capsys.readouterr().out.replace("-", "_")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented_in_one_line(name: str) -> None:
    assert COMMANDS[name].help.endswith(".")
    assert "\n" not in COMMANDS[name].help


def test_lists_are_values_of_the_cell(shell: InteractiveShell) -> None:
    for listing in ("methods", "models"):
        assert isinstance(shell.run_cell(f"%peft {listing}").result, pandas.DataFrame)

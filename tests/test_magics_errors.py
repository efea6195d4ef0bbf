from __future__ import annotations

import pandas
import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb.errors import CommandError, SpecError
from peft_nb.magics import give_body
from peft_nb.magics.line import COMMANDS
from peft_nb.spec import RunSpec
from tests.shell import refused


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
        ("%peft load x --out 2x", "--out '2x': not a name for a variable; write one such as run"),
        ("%peft load x --out", "--out '': not a name for a variable; write one such as run"),
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
    assert refused(shell, source, CommandError) == said
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
    assert said in refused(shell, source, CommandError)


def test_all_wrong_fields_are_named_at_once(shell: InteractiveShell) -> None:
    told = refused(shell, "%%peft lroa --data tickets\nlearning_rat: 1\nr: 0", SpecError)
    assert [problem.split(":")[0] for problem in told.splitlines()] == ["method", "r", "learning_rat"]


def test_a_cell_without_body_still_is_a_cell(shell: InteractiveShell) -> None:
    assert "data" in refused(shell, "%%peft", SpecError)


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

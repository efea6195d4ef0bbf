from __future__ import annotations

import pandas
import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb.errors import CommandError
from peft_nb.magics.line import COMMANDS, groups
from tests.shell import refused, run


@pytest.mark.parametrize("topic", ["", "resume", "lora", "training", "learning-rate"])
def test_help_knows_every_kind_of_topic(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], topic: str
) -> None:
    assert shell.run_cell(f"%peft help {topic}").success
    assert topic.replace("-", "_") in capsys.readouterr().out.replace("-", "_")


def test_the_list_of_commands_is_grouped_as_on_the_start_page(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    run(shell, "%peft help")
    *blocks, note = capsys.readouterr().out.split("\n\n")
    assert "%peft help COMMAND" in note
    assert [block.splitlines()[0] for block in blocks] == [title for title, _ in groups()]
    for block, (title, some) in zip(blocks, groups(), strict=True):
        words = " ".join(block.split())
        assert words == " ".join([title, *(f"{one.name} {one.help}" for one in some)])
        assert max(map(len, block.splitlines())) < 80


def test_lists_are_values_of_the_cell(shell: InteractiveShell) -> None:
    for listing in ("methods", "models"):
        assert isinstance(shell.run_cell(f"%peft {listing}").result, pandas.DataFrame)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("%peft help learning_rat", "did you mean 'learning_rate'?"),
        ("%peft help lroa", "did you mean 'lora'?"),
    ],
)
def test_a_topic_that_there_is_not_is_one_line(shell: InteractiveShell, source: str, said: str) -> None:
    assert said in refused(shell, source, CommandError)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_is_that_of_its_entry(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run(shell, f"%peft help {name}")
    usage, help, *flags = capsys.readouterr().out.splitlines()
    entry = COMMANDS[name]
    assert usage == f"%peft {name} {entry.usage}".rstrip()
    assert help == entry.help
    assert [line.split()[0].rstrip(":") for line in flags[: len(entry.options)]] == [one.flag for one in entry.options]
    assert all(one.help for one in entry.options)
    assert [line for line in flags[len(entry.options) :] if "--FLAG" not in line] == []

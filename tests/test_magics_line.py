"""One entry a command, of which all else is made."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from keyword import iskeyword
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb.errors import CommandError
from peft_nb.magics.completion import OFFERS, complete
from peft_nb.magics.line import COMMANDS, OUT, Argument, Command, Flag, command
from peft_nb.spec.field_info import FieldInfo
from tests.shell import refused, run


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("%peft shwo run", "%peft shwo: no such command; did you mean 'show'?"),
        ("%peft xyzzyq", "%peft xyzzyq: no such command; %peft help lists all"),
        ("%peft save run", "%peft save: something is missing; write %peft save RUN PATH [--checklist NAME]"),
        (
            "%peft merge run --dtype float32",
            "%peft merge takes a run and a folder; write %peft merge RUN PATH [--dtype DTYPE] [--max-kl X]",
        ),
        ("%peft merge run there --max-kl none", "--max-kl none: not a number; write one such as 0.01"),
        ("%peft stop a b", "b: unexpected; write %peft stop [RUN] [--now]"),
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


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented_in_one_line(name: str) -> None:
    assert COMMANDS[name].help.endswith(".")
    assert "\n" not in COMMANDS[name].help


@pytest.mark.parametrize("entry", COMMANDS.values(), ids=COMMANDS)
def test_a_function_takes_what_its_entry_says(entry: Command) -> None:
    shell, *taken = inspect.signature(entry.act).parameters.values()
    assert shell.name == "shell"
    needed = {argument.name: argument.required for argument in entry.arguments} | (
        {"fields": True} if entry.fields else {}
    )
    own = [flag.name for flag in entry.options if isinstance(flag, Flag)]
    needed |= {f"{name}_" if iskeyword(name) else name: False for name in own}
    named = {one.name: one.default is one.empty for one in taken if one.kind is not one.VAR_KEYWORD}
    if len(named) < len(taken):  # others are passed on as they are
        needed = {name: must for name, must in needed.items() if must or name in named}
    assert named == needed


@pytest.mark.parametrize("entry", COMMANDS.values(), ids=COMMANDS)
def test_an_entry_is_whole(entry: Command) -> None:
    flags = [flag for flag in entry.options if isinstance(flag, Flag)]
    kinds = [kind for argument in entry.arguments for kind in argument.kind.split("|")]
    assert {*kinds, *(flag.kind for flag in flags if flag.kind)} <= OFFERS.keys()
    assert not entry.fields.keys() & {flag.flag for flag in flags}
    required = [argument.required for argument in entry.arguments]
    assert required == sorted(required, reverse=True)
    assert not any(argument.many for argument in entry.arguments[:-1])


@pytest.fixture
def toy() -> Iterator[dict[str, Any]]:
    """A command of every kind of argument and flag, which keeps what it is called with."""
    got: dict[str, Any] = {}
    flags = [
        Flag("as", "choice", "A choice.", choices=("script", "yaml")),
        Flag("row", "integer", "A number.", wanted="the number of a row; write one such as 0"),
        Flag("max_kl", "number", "Another.", unit="nats"),
        Flag("why", "text", "A text.", value='"TEXT"', required=True),
        Flag("force", "switch", "A switch."),
        OUT,
        FieldInfo("goal", "text", "A field.", "x"),
    ]

    @command(Argument("path"), Argument("run|base", many=True), flags=flags)
    def toy(shell: InteractiveShell, **values: Any) -> None:
        """Do something."""
        got.update(values)

    yield got
    del COMMANDS["toy"]


def test_an_entry_says_how_it_is_written(toy: dict[str, Any]) -> None:
    assert COMMANDS["toy"].usage == (
        'PATH RUN|BASE [RUN|BASE ...] [--as AS] [--row N] [--max-kl X] --why "TEXT" [--force] [--out VAR] [--goal GOAL]'
    )


def test_a_line_becomes_typed_values(shell: InteractiveShell, toy: dict[str, Any]) -> None:
    run(shell, "%peft toy there --row 3 a --max_kl=1e-2 base --why 'it is -- good' --force --as yaml --goal 7 --out x")
    assert toy == {
        "path": "there",
        "runs": ["a", "base"],
        "row": 3,
        "max_kl": 0.01,
        "why": "it is -- good",
        "force": True,
        "as_": "yaml",
        "out": "x",
        "fields": {"goal": "7"},
    }


def test_what_is_not_written_is_left_to_the_function(shell: InteractiveShell, toy: dict[str, Any]) -> None:
    run(shell, "%peft toy there a --row null")
    assert toy == {"path": "there", "runs": ["a"], "fields": {}}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("there", "%peft toy: something is missing; write %peft toy PATH RUN|BASE [RUN|BASE ...] [--as AS]"),
        ("there a --as yml", "--as yml: not one of script, yaml; did you mean 'yaml'?"),
        ("there a --row -1", "--row -1: not the number of a row; write one such as 0"),
        ("there a --row 1.5", "--row 1.5: not the number of a row"),
        ("there a --max-kl x", "--max-kl x: not a number; write one such as 0.01"),
        ("there a --why", "--why: needs a value"),
        ("there a --force=yes", "--force: takes no value"),
        ("there a --row 1 --row 2", "--row: row is already set by a flag; keep one"),
        ("there a --gaol x", "no such flag: '--gaol'; did you mean '--goal'?"),
    ],
)
def test_a_value_that_is_none_is_one_line(shell: InteractiveShell, toy: dict[str, Any], line: str, said: str) -> None:
    assert said in refused(shell, f"%peft toy {line}", CommandError)
    assert toy == {}


def test_a_value_may_begin_with_a_dash(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("peft_nb.store.Store.rollback", lambda store, alias, why: told.append(why))
    monkeypatch.setattr("peft_nb.ui.lineage.said", str)
    run(shell, "%peft rollback production --why -5")
    assert told == ["-5"]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("toy --as ", ["script", "yaml"]),
        ("toy there b", ["base"]),
        ("toy there --row 3 b", ["base"]),
        ("toy there x base --f", ["--force"]),
        ("toy there a --ro", ["--row"]),
        ("toy there a --row 3 --ro", []),
    ],
)
def test_tab_offers_what_may_stand_there(
    toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch, line: str, offered: list[str]
) -> None:
    monkeypatch.setitem(OFFERS, "run", lambda namespace, said: [])
    found = complete(f"%peft {line}", 0, len(f"%peft {line}"), {})
    assert found.matches == offered

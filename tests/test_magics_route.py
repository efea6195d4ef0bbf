from __future__ import annotations

from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb import Router, Run
from peft_nb.errors import CommandError, RunError, StoreError
from tests.shell import refused, run


@pytest.fixture
def told(shell: InteractiveShell, kinds: dict[str, Run], encoder: Path) -> str:
    shell.user_ns |= kinds
    shell.user_ns["veto"] = lambda prompt, user: "tool"
    return f"--encoder {encoder}"


def test_runs_are_put_behind_a_router(shell: InteractiveShell, told: str) -> None:
    found = run(shell, f"%peft route fruit tool base {told} --policy veto --out gate")
    assert isinstance(found, Router)
    assert shell.user_ns["gate"] is found
    assert (found.name, found.names) == ("gate", ["fruit", "tool", "base"])
    assert found.route("plum").name == "tool"
    talk = run(shell, "%peft chat gate")
    turn = talk.ask("plum", max_new_tokens=2)
    assert (turn.run, turn.routed) == ("tool", "by gate, 100%")


def test_mistakes_are_one_line(shell: InteractiveShell, told: str) -> None:
    assert "--policy vto: there is no such function; did you mean 'veto'" in refused(
        shell, "%peft route fruit --policy vto", CommandError
    )
    assert "there is nothing to route to" in refused(shell, "%peft route base", RunError)
    assert "there is no run 'nobody'" in refused(shell, "%peft route nobody", StoreError)

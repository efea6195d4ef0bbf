"""``%peft`` before training; what recipes and files of several runs do is tested with recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb.errors import CommandError, DataError, SpecError
from peft_nb.ui.panels.config import ConfigPanel
from tests.shell import refused, run


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        ("train missing.yaml", CommandError, "missing.yaml"),
        ("train one.yaml other.yaml", CommandError, "other.yaml: unexpected; write %peft train [FILE] [--out VAR]"),
        ("train one.yaml --epoch 3", CommandError, "no such flag: '--epoch'; did you mean '--epochs'?"),
        ("train one.yaml --out 2x", CommandError, "--out '2x': not a name for a variable"),
        ("train --background=yes", CommandError, "--background: takes no value"),
        ("train", SpecError, "data: missing"),
        ("estimate two.yaml", CommandError, "the file describes 2 runs where one is wanted"),
        (
            "estimate one.yaml other.yaml",
            CommandError,
            "%peft estimate takes one name; write %peft estimate [DATA|FILE]",
        ),
        ("estimate tickets --data other", CommandError, "%peft estimate takes one name"),
        ("estimate tickts", DataError, "did you mean 'tickets'?"),
        ("estimate --data tickts", DataError, "did you mean 'tickets'?"),
        ("estimate one.yaml --r 0", SpecError, "r: 0 is below the smallest allowed value 1"),
        ("panel one.yaml other.yaml", CommandError, "other.yaml: unexpected; write %peft panel [RECIPE|FILE]"),
    ],
)
def test_a_mistake_is_one_line(shell: InteractiveShell, line: str, kind: type, said: str) -> None:
    shell.user_ns["tickets"] = [{"prompt": "a", "completion": "b"}]
    Path("one.yaml").write_text("data: tickets\nr: 4\n")
    Path("two.yaml").write_text("data: tickets\nruns: [{r: 4}, {r: 8}]\n")
    assert said in refused(shell, f"%peft {line}", kind)


def test_a_form_is_filled_from_a_file(shell: InteractiveShell) -> None:
    Path("one.yaml").write_text("data: tickets\nr: 4\n")
    shown = run(shell, "%peft panel one.yaml")
    assert isinstance(shown, ConfigPanel)
    assert shown.form.spec
    assert shown.form.spec.r == 4
    shown._debouncer.cancel()

"""``%peft`` before training: look at data, forecast, fill in a form, train what a file describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft_nb.errors import CommandError
from peft_nb.magics import cell
from peft_nb.magics.line import COMMANDS, Call, command
from peft_nb.spec import RunSpec, notation


@command("[FILE] [--FLAG VALUE ...] [--out NAME] [--background]", most=1000)
def train(call: Call) -> None:
    """Train what a YAML file, flags or both describe; several runs, as a recipe may hold, one after the other."""
    runs = notation.parse_runs(call.words, RunSpec.describe())
    if len(runs) > 1 and call.background:
        raise CommandError(
            f"--background: the file describes {len(runs)} runs, which wait for each other; leave it out"
        )
    for fields in runs:
        cell.begin(call.shell, fields, call.out, call.background)


@command("NAME [--fix] [--row N] [--out VAR] [--FLAG VALUE ...]", 1, 1000, ("data", "model"))
def data(call: Call) -> Any:
    """Check data before training: what is wrong, the mend, the lengths; --fix mends, --row shows one row's tokens."""
    words, fields = notation.parse_flags(call.words, COMMANDS["data"].flags)
    if len(words) != 1 or "data" in fields:
        raise CommandError(f"%peft data takes one name; write %peft data {COMMANDS['data'].usage}")
    if call.row is not None and not call.row.isdecimal():
        raise CommandError(f"--row {call.row}: not the number of a row; write one such as 0")
    spec = RunSpec(**{**fields, "data": words[0]})
    from peft_nb.ui import check

    if call.row is not None:
        return check.tokens(spec, int(call.row), call.shell.user_ns)
    report = check.report_on(spec, namespace=call.shell.user_ns)
    fixed = report.fixed(call.out) if call.fix else report
    if call.out:
        call.shell.user_ns[call.out] = fixed
    return report


@command("[DATA|FILE] [--FLAG VALUE ...]", most=1000)
def estimate(call: Call) -> Any:
    """Forecast memory and time of a run on DATA, or of one that a YAML file describes; trains nothing."""
    words, fields = notation.parse_flags(call.words, COMMANDS["estimate"].flags)
    if len(words) > 1 or (words and "data" in fields):
        raise CommandError(f"%peft estimate takes one name; write %peft estimate {COMMANDS['estimate'].usage}")
    if words and Path(words[0]).suffix in (".yaml", ".yml"):
        spec = RunSpec.from_argv(call.words)
    else:
        spec = RunSpec(**fields, **({"data": words[0]} if words else {}))
    from peft_nb.ui.forecast import made

    return made(spec, call.shell.user_ns)


@command("[RECIPE|FILE]", most=1)
def panel(call: Call) -> Any:
    """Describe a run in a form: checked and forecast as it is filled in, kept as a cell, started from there."""
    from peft_nb.ui.panels.config import ConfigPanel, named

    return ConfigPanel(named(call.words[0]) if call.words else None, call.shell.user_ns)

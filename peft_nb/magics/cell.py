"""``%%peft METHOD [flags]``: a cell that describes a run, trains it and shows it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from peft_nb.errors import CommandError, nearest
from peft_nb.events import Listener
from peft_nb.spec import RunSpec, notation
from peft_nb.spec.place import Place
from peft_nb.spec.sweep import SweepSpec, described

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from peft_nb.runs.run import Run

UNFILLED = re.compile(r"\{([A-Za-z_]\w*)\}|\$([A-Za-z_]\w*)")


def usage() -> str:
    """Write the help of ``%%peft``, generated from the fields of ``RunSpec`` and the registered methods."""
    import peft_nb.methods  # noqa: F401  (registers the methods)

    return notation.help_text([*RunSpec.describe(), *SweepSpec.describe(), *notation.CELL])


def train(shell: InteractiveShell, line: str, body: str) -> None:
    """Run a ``%%peft`` cell.

    Parameters
    ----------
    shell : InteractiveShell
        The shell whose namespace holds the data and takes the run.
    line : str
        What follows ``%%peft``.
    body : str
        The rest of the cell, as YAML.

    Raises
    ------
    PeftNbError
        For whatever the user can fix, in one line.
    """
    refuse_unfilled(shell, line)
    parsed = notation.parse_cell(line, body, [*RunSpec.describe(), *SweepSpec.describe()])
    begin(shell, parsed.fields, parsed.out, parsed.background, parsed.place)


def begin(
    shell: InteractiveShell, fields: dict[str, object], out: str | None, background: bool, place: Place | None = None
) -> None:
    """Train what unchecked fields describe, show it, and bind the run as soon as there is one, of a sweep the best."""
    import peft_nb.methods  # noqa: F401  (registers the methods)

    if varied := described(fields):
        from peft_nb.runs.sweeps import search
        from peft_nb.ui import sweep

        def bind(done: sweep.Sweep) -> None:
            if out:
                shell.user_ns[out] = done.best()

        sweep.watch(search.begin(varied, namespace=shell.user_ns, place=place), background=background, then=bind)
        return
    spec = RunSpec(**fields)  # before anything that takes time to import
    from peft_nb.runs import run
    from peft_nb.ui.live import watch

    def start(listeners: Sequence[Listener]) -> Run:
        begun = run.begin(spec, namespace=shell.user_ns, listeners=listeners, place=place)
        if out:
            shell.user_ns[out] = begun
        return begun

    watch(start, background=background, name=out)


def refuse_unfilled(shell: InteractiveShell, line: str) -> None:
    """Refuse a line with a ``{name}`` or ``$name`` that IPython could not fill in and silently left.

    Raises
    ------
    CommandError
        If there is one.
    """
    if left := UNFILLED.search(line):
        name = left[1] or left[2]
        hint = nearest(name, [known for known in shell.user_ns if known not in shell.user_ns_hidden])
        raise CommandError(f"{left[0]}: there is no variable {name} to fill in{hint}")

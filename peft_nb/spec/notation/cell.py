"""A ``%%peft`` cell: a method and flags in its first line, fields as YAML below."""

from __future__ import annotations

import re
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any

from peft_nb import spec
from peft_nb.errors import CommandError
from peft_nb.spec.notation.flags import flags, parse_flags, split
from peft_nb.spec.notation.yaml import read_yaml, write_yaml


@dataclass(frozen=True)
class Cell:
    """What a ``%%peft`` cell says: fields not yet checked, the variable to bind, and how to run."""

    fields: dict[str, Any]
    out: str | None = None
    background: bool = False


def parse_cell(line: str, body: str = "") -> Cell:
    """Read a ``%%peft`` cell.

    Parameters
    ----------
    line : str
        What follows ``%%peft``: a method (optional) and flags. Quotes group; a backslash is itself.
    body : str
        Fields as YAML, or nothing.

    Returns
    -------
    Cell
        The fields of both, not yet checked.

    Raises
    ------
    CommandError
        If a flag is unknown, given twice or lacks its value, a field is set in line and body, or ``--out``
        cannot name a variable.
    SpecError
        If the body is not a YAML mapping of fields; lines are counted from the cell's first.
    """
    words, values = parse_flags(split(line), flags(cell=True))
    if len(words) > 1:
        raise CommandError(f"{words[0]!r} and {words[1]!r} cannot both be the method; write values behind flags")
    if words and "method" in values:
        raise CommandError(f"--method and {words[0]!r} both name the method; keep one")
    if words:
        values["method"] = words[0]
    out, background = values.pop("out", None), values.pop("background", False)
    if out is not None:
        check_out(out)

    fields = read_yaml("\n" + body)
    for name in fields:
        field = spec.ALIASES.get(name, name)
        if field in ("out", "background"):
            raise CommandError(f"{name}: belongs in the first line, as --{name}")
        if field in values:
            raise CommandError(f"{field} in the first line and {name} in the body set the same field; keep one")
    return Cell(values | fields, out, background)


def check_out(name: str) -> None:
    """Refuse what cannot name a variable, as a CommandError."""
    if not name.isidentifier() or iskeyword(name):
        raise CommandError(f"--out {name!r}: not a name for a variable; write one such as run")


def read_cell(text: str) -> Cell:
    """Read the whole text of a cell, ``%%peft`` included; see :func:`parse_cell`."""
    line, _, body = text.lstrip().partition("\n")
    if line.split()[:1] != ["%%peft"]:
        raise CommandError("a cell that describes a run begins with %%peft")
    return parse_cell(line.removeprefix("%%peft"), body)


def write_cell(run: spec.RunSpec, out: str = "") -> str:
    """Write the notebook cell that describes a run and binds it to `out`, which :func:`read_cell` reads.

    IPython expands ``{x}`` and ``$x`` in the first line, so only a plain word goes there; and it refuses a
    cell without a body, so there always is one.
    """
    fields = run.changed()
    line = f"%%peft {fields.pop('method', run.method)}"
    if re.fullmatch(r"[\w./][\w./-]*", run.data):
        line += f" --data {fields.pop('data')}"
    if out:
        line += f" --out {out}"
    return line + "\n" + write_yaml(fields or {"model": run.model})

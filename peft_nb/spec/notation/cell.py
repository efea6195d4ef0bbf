"""A ``%%peft`` cell: a method and flags in its first line, fields as YAML below."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from keyword import iskeyword
from typing import Any

from peft_nb.errors import CommandError
from peft_nb.spec.field_info import FieldInfo, aliases
from peft_nb.spec.notation.flags import flags, parse_flags, split
from peft_nb.spec.notation.yaml import read_yaml, write_yaml
from peft_nb.spec.place import FIELDS, Place

CELL = (
    FieldInfo("out", "text", "Variable of the notebook that takes the run.", "cell"),
    FieldInfo("background", "switch", "Return at once and train while other cells run.", "cell", default=False),
    *FIELDS,
)
"""What only a cell can be told; where to train also the command line."""


@dataclass(frozen=True)
class Cell:
    """What a ``%%peft`` cell says: fields not yet checked, the variable to bind, how to run, and where."""

    fields: dict[str, Any]
    out: str | None = None
    background: bool = False
    place: Place = field(default_factory=Place)


def parse_cell(line: str, body: str, fields: Iterable[FieldInfo]) -> Cell:
    """Read a ``%%peft`` cell.

    Parameters
    ----------
    line : str
        What follows ``%%peft``: a method (optional) and flags. Quotes group; a backslash is itself.
    body : str
        Fields as YAML, or nothing.
    fields : iterable of FieldInfo
        The fields of a spec.

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
        If the body is not a YAML mapping of fields, whose lines are counted from the cell's first, or there is no such
        place.
    """
    fields = list(fields)
    words, values = parse_flags(split(line), flags([*fields, *CELL]))
    if len(words) > 1:
        raise CommandError(f"{words[0]!r} and {words[1]!r} cannot both be the method; write values behind flags")
    if words and "method" in values:
        raise CommandError(f"--method and {words[0]!r} both name the method; keep one")
    if words:
        values["method"] = words[0]
    out, background = values.pop("out", None), values.pop("background", False)
    if out is not None:
        check_out(out)

    given, known = read_yaml("\n" + body), aliases(fields)
    for name in given:
        own = known.get(name, name)
        if own in ("out", "background"):
            raise CommandError(f"{name}: belongs in the first line, as --{name}")
        if own in values:
            raise CommandError(f"{own} in the first line and {name} in the body set the same field; keep one")
    values |= given
    return Cell(values, out, background, Place.taken(values))


def check_out(name: str) -> None:
    """Refuse what cannot name a variable, as a CommandError."""
    if not name.isidentifier() or iskeyword(name):
        raise CommandError(f"--out {name!r}: not a name for a variable; write one such as run")


def read_cell(text: str, fields: Iterable[FieldInfo]) -> Cell:
    """Read the whole text of a cell, ``%%peft`` included; see :func:`parse_cell`."""
    line, _, body = text.lstrip().partition("\n")
    if line.split()[:1] != ["%%peft"]:
        raise CommandError("a cell that describes a run begins with %%peft")
    return parse_cell(line.removeprefix("%%peft"), body, fields)


def write_cell(values: Mapping[str, Any], changed: Mapping[str, Any], out: str = "") -> str:
    """Write the notebook cell that describes a run, which :func:`read_cell` reads.

    IPython expands ``{x}`` and ``$x`` in the first line, so only a plain word goes there; and it refuses a
    cell without a body, so there always is one.

    Parameters
    ----------
    values : mapping
        All fields of a spec.
    changed : mapping
        Those of them that have to be written.
    out : str, default ""
        The variable that takes the run.

    Returns
    -------
    str
        The cell.
    """
    body = {name: value for name, value in changed.items() if name != "method"}
    line = f"%%peft {values['method']}"
    if re.fullmatch(r"[\w./][\w./-]*", values["data"]):
        line += f" --data {body.pop('data')}"
    if out:
        line += f" --out {out}"
    return line + "\n" + write_yaml(body or {"model": values["model"]})

"""The help of the flags."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from textwrap import fill

from peft_nb.errors import CommandError
from peft_nb.spec.field_info import FieldInfo, suggest
from peft_nb.spec.names import NAMES
from peft_nb.spec.notation.yaml import dump


def help_text(fields: Iterable[FieldInfo], section: str | None = None) -> str:
    """Describe the flags, grouped by section: name, choices or kind, unit, default, bounds, aliases and help.

    Parameters
    ----------
    fields : iterable of FieldInfo
        What the flags set.
    section : str, optional
        Only this section, or only the field of this name.

    Returns
    -------
    str
        Plain text, at most 100 columns wide.

    Raises
    ------
    CommandError
        If there is neither a section nor a field of that name.
    """
    fields = list(fields)
    chosen = [field for field in fields if section in (None, field.section, field.name, *field.aliases)]
    if section is not None and not chosen:
        names = [name for field in fields for name in (field.section, field.name, *field.aliases)]
        raise CommandError(f"no such section or field: {section!r}{suggest(section, names)}")
    lines = []
    for title, group in groupby(chosen, key=lambda field: field.section):
        lines += ["", title, *(line for field in group for line in _help(field))]
    if section is None:
        lines = [
            "%%peft METHOD [--flag value ...]                        a cell; its lines set fields, as r: 16",
            "python -m peft_nb train SPEC.yaml [--flag value ...]    a shell; flags override the file",
            *lines,
        ]
    return "\n".join(lines).strip() + "\n"


def _help(field: FieldInfo) -> list[str]:
    kinds = {"mapping": "NAME=VALUE,...", "list": "NAME,..."}
    explained = {name: help for name, help in NAMES.get(field.name, {}).items() if help}
    choices = field.name.upper() if explained else "|".join(field.choices)
    takes = choices or kinds.get(field.type, field.type.upper())
    head = f"{field.flag}, --no-{field.flag[2:]}" if field.type == "switch" else f"{field.flag} {takes}"
    default = dump({"default": field.default}).strip().replace(":", "", 1)
    aliases = [f"also --{alias.replace('_', '-')}" for alias in field.aliases]
    facts = [field.unit, "required" if field.required else default, field.bounds, *aliases]
    lines = [f"  {head}  ({'; '.join(filter(None, facts))})", f"      {field.help}"]
    lines += [f"      {name}: {help}" for name, help in explained.items()]
    return [fill(line, 100, subsequent_indent=" " * 6, break_on_hyphens=False) for line in lines]

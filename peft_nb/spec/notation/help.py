"""The help of the flags."""

from __future__ import annotations

from itertools import groupby
from textwrap import fill

from peft_nb import spec
from peft_nb.errors import CommandError
from peft_nb.spec.fields import FieldInfo
from peft_nb.spec.notation.flags import described
from peft_nb.spec.notation.yaml import dump


def help_text(section: str | None = None) -> str:
    """Describe the flags, grouped by section: name, choices or kind, unit, default, bounds, aliases and help.

    Parameters
    ----------
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
    fields = described(cell=True)
    chosen = [field for field in fields if section in (None, field.section, field.name, *field.aliases)]
    if section is not None and not chosen:
        names = [name for field in fields for name in (field.section, field.name, *field.aliases)]
        raise CommandError(f"no such section or field: {section!r}{spec.suggest(section, names)}")
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
    takes = "|".join(field.choices) or kinds.get(field.type, field.type.upper())
    head = f"{field.flag}, --no-{field.flag[2:]}" if field.type == "switch" else f"{field.flag} {takes}"
    default = dump({"default": field.default}).strip().replace(":", "", 1)
    aliases = [f"also --{alias.replace('_', '-')}" for alias in field.aliases]
    facts = [field.unit, "required" if field.required else default, field.bounds, *aliases]
    lines = [f"  {head}  ({'; '.join(filter(None, facts))})", f"      {field.help}"]
    if field.name == "method":
        lines += [f"      {name}: {help}" for name, help in spec.METHODS.items()]
    return [fill(line, 100, subsequent_indent=" " * 6, break_on_hyphens=False) for line in lines]

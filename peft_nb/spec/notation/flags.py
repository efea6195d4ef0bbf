"""Fields as flags, such as ``--learning-rate 2e-4``."""

from __future__ import annotations

import re
import shlex
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from peft_nb.errors import CommandError, SpecError
from peft_nb.spec.field_info import FieldInfo, suggest
from peft_nb.spec.notation.yaml import dump, load, quote
from peft_nb.spec.pasted import SETTINGS, told


def flags(fields: Iterable[FieldInfo]) -> dict[str, FieldInfo]:
    """Map every flag to its field, aliases and ``--no-`` forms included."""
    known = {}
    for field in fields:
        for name in (field.name, *field.aliases):
            known["--" + name.replace("_", "-")] = field
        if field.type == "switch":
            known["--no-" + field.flag[2:]] = field
    return known


_FLOW = ("[", "{", '"', "'")


def read_value(field: FieldInfo, text: str) -> Any:
    """Read what stands behind a flag or in a form as the value of its field, not yet checked."""
    if text == "null" and field.type != "text":
        return None
    if field.type in ("mapping", "list") and text.startswith(_FLOW):
        with suppress(SpecError):  # a regular expression such as [qv]_proj stays text
            return load(text)
    return text


def split(line: str) -> list[str]:
    """Take a line apart at white space; quotes group, and a backslash is itself.

    Raises
    ------
    CommandError
        If a quotation mark is not closed.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
    try:
        return list(lexer)
    except ValueError:
        raise CommandError(f"a quotation mark is not closed in: {line.strip()}") from None


def parse_flags(tokens: Iterable[str], known: Mapping[str, FieldInfo]) -> tuple[list[str], dict[str, Any]]:
    """Separate words from flags.

    Parameters
    ----------
    tokens : iterable of str
        What was written.
    known : mapping of str to FieldInfo
        The flags, such as some of :func:`flags`.

    Returns
    -------
    tuple of list of str and dict
        The words, and fields, not yet checked.

    Raises
    ------
    CommandError
        If a flag is unknown, given twice or lacks its value.
    SpecError
        If flags are settings of another tool.
    """
    # Not argparse: it abbreviates, prints, exits, and silently keeps the last of two values.
    words: list[str] = []
    values: dict[str, Any] = {}
    foreign: dict[str, Any] = {}
    queue = deque(tokens)
    while queue:
        token = queue.popleft()
        if not token.startswith("-"):
            words.append(token)
            continue
        flag, equals, text = token.partition("=")
        flag = flag.replace("_", "-")
        field = known.get(flag)
        name = flag.strip("-").replace("-", "_")
        if field is None and name in SETTINGS and "--method" in known:
            follows = bool(queue) and not queue[0].startswith("-")
            foreign[name] = text if equals else queue.popleft() if follows else "true"
            continue
        if field is None:
            names = [name[2:].replace("-", "_") for name in known]
            hint = suggest(name, names)
            hint = hint.replace("_", "-").replace("'", "'--", 1) or "; %peft help lists them"
            raise CommandError(f"no such flag: {flag!r}{hint}")
        if field.name in values:
            raise CommandError(f"{flag}: {field.name} is already set by a flag; keep one")
        if field.type == "switch":
            if equals:
                raise CommandError(f"{flag}: takes no value; write {field.flag} or --no-{field.flag[2:]}")
            values[field.name] = not flag.startswith("--no-")
        elif equals:
            values[field.name] = read_value(field, text)
        elif queue and not queue[0].startswith("--"):
            values[field.name] = read_value(field, queue.popleft())
        else:
            raise CommandError(f"{flag}: needs a value; write {flag}=VALUE")
    if foreign:
        own = {field.name: field for field in known.values()}
        fields, problems = told(foreign | values, own)
        written = [_flag(own[name], value) for name, value in fields.items() if values.get(name) != value]
        before = "\nas flags: " if len(foreign) > 1 else ", or "
        raise SpecError([problems[0] + (f"{before}{shlex.join(written)}" if written else "")])
    return words, values


def write_flags(values: Mapping[str, Any], fields: Iterable[FieldInfo]) -> list[str]:
    """Write the values of some fields as arguments for :func:`parse_train`, each as ``--flag=value``."""
    known = {field.name: field for field in fields}
    return [_flag(known[name], value) for name, value in values.items()]


def _flag(field: FieldInfo, value: Any) -> str:
    if isinstance(value, bool):
        return field.flag if value else "--no-" + field.flag[2:]
    return f"{field.flag}={write_value(field, value)}"


def write_value(field: FieldInfo, value: Any) -> str:
    """Write the value of a field, which is not null, as :func:`read_value` reads it."""
    if field.type in ("mapping", "list") and isinstance(value, str) and value.startswith(_FLOW):
        return quote(value)
    if field.default == [] and value and not any(re.search(r"[,'\"]|^[\s\[{]|^null$|\s$", one) for one in value):
        return ",".join(value)
    if field.type in ("mapping", "list") and not isinstance(value, str):
        return dump(value, flow=True).strip()
    return str(value)

"""The written forms of a spec: YAML, notebook cell, flags and help, generated from the fields of ``RunSpec``.

YAML scalars and the values of flags stay text here, because only the field knows whether ``2e-4`` is a number
and ``on`` a name. Nothing here prints or exits: what cannot be read raises an error of one line.
"""

from __future__ import annotations

import math
import re
import shlex
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from keyword import iskeyword
from pathlib import Path
from textwrap import fill
from typing import Any

import yaml

from . import spec
from .errors import CommandError, SpecError
from .fields import FieldInfo


class _Loader(yaml.BaseLoader):
    """YAML whose scalars are text, or None for a plain null; fields given twice are refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        first: dict[str, int] = {}
        problems = []
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                problems.append(f"line {line}: a field is named by one word, not by a list or a mapping")
            elif key.value in first:
                problems.append(f"line {line}: {key.value!r} is already set in line {first[key.value]}; keep one")
            else:
                first[key.value] = line
        if problems:
            raise SpecError(problems)
        return {key.value: self.construct_object(value, deep) for key, value in node.value}


_NULL = re.compile(r"(~|null|Null|NULL|)\Z")
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", _NULL, ["~", "n", "N", ""])
_Loader.add_constructor("tag:yaml.org,2002:null", lambda *_: None)


class _Dumper(yaml.SafeDumper):
    """Lists on one line; text of several lines as a block, and quoted where YAML would alter it."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = "|" if "\n" in text else None
        printable = all(line.isprintable() for line in text.split("\n"))
        # Editors drop trailing newlines, and IPython takes >>> off the beginning of every line of a cell.
        if not printable or text.endswith("\n") or re.search(r"^\s*>>>", text, re.MULTILINE):
            style = '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)

    def represent_names(self, names: list[str]) -> yaml.SequenceNode:
        return self.represent_sequence("tag:yaml.org,2002:seq", names, flow_style=True)


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_representer(list, _Dumper.represent_names)


def read_yaml(text: str) -> dict[str, Any]:
    """Read a mapping of fields, not yet checked.

    Parameters
    ----------
    text : str
        One YAML mapping, or nothing.

    Returns
    -------
    dict
        Text, None, lists and mappings by field; empty for an empty text.

    Raises
    ------
    SpecError
        If it is not YAML, not a mapping or sets a field twice; the message names the line.
    """
    fields = _load(text)
    if not isinstance(fields, dict | None):
        raise SpecError(["the YAML is not a mapping; write one 'field: value' a line"])
    return fields or {}


def _load(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        mend = "write one 'field: value' a line and quote text that begins with '>' or holds ': ' or ' #'"
        raise SpecError([f"line {line}: not YAML, {error.problem}; {mend}"]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecError([f"line {line}: the character {error.character:#x} is not for text; remove it"]) from None
    except (OverflowError, RecursionError, ValueError):
        raise SpecError(["not YAML: an escape names no character, or lists nest too deeply"]) from None


def write_yaml(fields: Mapping[str, Any]) -> str:
    """Write fields as YAML, one a line in the order given, so that :func:`read_yaml` loses nothing."""
    return _dump(dict(fields))


def _dump(value: Any, *, flow: bool = False) -> str:
    layout: Any = {"sort_keys": False, "allow_unicode": True, "width": math.inf, "default_flow_style": flow}
    return yaml.dump(value, Dumper=_Dumper, **layout)


@dataclass(frozen=True)
class Cell:
    """What a ``%%peft`` cell says: fields not yet checked, the variable to bind, and how to run."""

    fields: dict[str, Any]
    out: str | None = None
    background: bool = False


def _fields(cell: bool) -> list[FieldInfo]:
    own = (
        FieldInfo("out", "text", "Variable of the notebook that takes the run.", "cell"),
        FieldInfo("background", "switch", "Return at once and train while other cells run.", "cell", default=False),
    )
    return [*spec.RunSpec.describe(), *(own if cell else ())]


def flags(*, cell: bool = False) -> dict[str, FieldInfo]:
    """Map every flag to its field, aliases and ``--no-`` forms included.

    Parameters
    ----------
    cell : bool, default False
        Include ``--out`` and ``--background``, which belong to a cell and not to a spec.
    """
    known = {}
    for field in _fields(cell):
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
            return _load(text)
    return text


def _scan(tokens: Iterable[str], known: Mapping[str, FieldInfo]) -> tuple[list[str], dict[str, Any]]:
    # Not argparse: it abbreviates, prints, exits, and silently keeps the last of two values.
    words: list[str] = []
    values: dict[str, Any] = {}
    queue = deque(tokens)
    while queue:
        token = queue.popleft()
        if not token.startswith("-"):
            words.append(token)
            continue
        flag, equals, text = token.partition("=")
        flag = flag.replace("_", "-")
        field = known.get(flag)
        if field is None:
            names = [name[2:].replace("-", "_") for name in known]
            hint = spec.suggest(flag.strip("-").replace("-", "_"), names)
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
    return words, values


def write_flags(fields: Mapping[str, Any]) -> list[str]:
    """Write fields as arguments for :func:`parse_train`, each as ``--flag=value``."""
    known = {field.name: field for field in spec.RunSpec.describe()}
    return [_flag(known[name], value) for name, value in fields.items()]


def _flag(field: FieldInfo, value: Any) -> str:
    if isinstance(value, bool):
        return field.flag if value else "--no-" + field.flag[2:]
    return f"{field.flag}={write_value(field, value)}"


def write_value(field: FieldInfo, value: Any) -> str:
    """Write the value of a field, which is not null, as :func:`read_value` reads it."""
    if field.type in ("mapping", "list") and (not isinstance(value, str) or value.startswith(_FLOW)):
        value = _dump(value, flow=True).strip()
    return str(value)


def parse_train(argv: list[str]) -> dict[str, Any]:
    """Read the arguments of ``python -m peft_nb train``.

    Parameters
    ----------
    argv : list of str
        A YAML file, flags, or both; a flag overrides what the file says.

    Returns
    -------
    dict
        Fields, not yet checked.

    Raises
    ------
    CommandError
        If a flag is unknown, given twice or lacks its value, or the file cannot be read or describes several runs.
    SpecError
        If the file is not a YAML mapping of fields.
    """
    first, *others = parse_runs(argv)
    if others:
        mend = "%peft train in a notebook trains them one after the other"
        raise CommandError(f"the file describes {1 + len(others)} runs where one is wanted; {mend}")
    return first


def parse_runs(argv: list[str]) -> list[dict[str, Any]]:
    """Read the same of one run or of several, as :func:`parse_train` and :func:`several` do."""
    words, values = _scan(argv, flags())
    if len(words) > 1:
        raise CommandError(f"{words[0]!r} and {words[1]!r} cannot both be the file; write values behind flags")
    if not words:
        return [values]
    try:
        found = several(read_yaml(Path(words[0]).read_text("utf-8")))
    except OSError as error:
        raise CommandError(f"{words[0]!r}: {error.strerror}; give the path of a YAML file") from None
    except ValueError:
        raise CommandError(f"{words[0]!r}: not a text file in UTF-8; give the path of a YAML file") from None
    except SpecError as error:
        raise SpecError(f"{words[0]}: {problem}" for problem in error.problems) from None
    return [
        {name: v for name, v in one.items() if spec.ALIASES.get(name, name) not in values} | values for one in found
    ]


def several(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Take apart what a file says of several runs: under ``runs`` each has its own fields, and all share the rest.

    Parameters
    ----------
    fields : mapping
        As :func:`read_yaml` gives them.

    Returns
    -------
    list of dict
        The fields of each run; of one without ``runs``.

    Raises
    ------
    SpecError
        If ``runs`` is no list of mappings.
    """
    shared = {name: value for name, value in fields.items() if name != "runs"}
    runs = fields.get("runs", [{}])
    if not isinstance(runs, list) or not runs or not all(isinstance(one, dict) for one in runs):
        raise SpecError(["runs: not a list of runs; write one '- {method: lora, r: 8}' a line"])
    return [shared | one for one in runs]


def parse_flags(tokens: list[str], known: Mapping[str, FieldInfo]) -> tuple[list[str], dict[str, Any]]:
    """Separate words from flags.

    Parameters
    ----------
    tokens : list of str
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
    """
    return _scan(tokens, known)


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
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
    try:
        tokens = list(lexer)
    except ValueError:
        raise CommandError(f"a quotation mark is not closed in {line.strip()!r}") from None
    words, values = _scan(tokens, flags(cell=True))
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
    fields = _fields(cell=True)
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
    default = _dump({"default": field.default}).strip().replace(":", "", 1)
    aliases = [f"also --{alias.replace('_', '-')}" for alias in field.aliases]
    facts = [field.unit, "required" if field.required else default, field.bounds, *aliases]
    lines = [f"  {head}  ({'; '.join(filter(None, facts))})", f"      {field.help}"]
    if field.name == "method":
        lines += [f"      {name}: {help}" for name, help in spec.METHODS.items()]
    return [fill(line, 100, subsequent_indent=" " * 6, break_on_hyphens=False) for line in lines]

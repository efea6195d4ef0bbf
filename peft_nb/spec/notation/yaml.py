"""Fields as YAML."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping
from typing import Any

import yaml

from peft_nb.errors import SpecError


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
    fields = load(text)
    if not isinstance(fields, dict | None):
        raise SpecError(["the YAML is not a mapping; write one 'field: value' a line"])
    return fields or {}


def load(text: str) -> Any:
    """Read any YAML, its scalars as text or None; a SpecError where it is none."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        fix = "write one 'field: value' a line and quote text that begins with '>' or holds ': ' or ' #'"
        raise SpecError([f"line {line}: not YAML, {error.problem}; {fix}"]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecError([f"line {line}: the character {error.character:#x} is not for text; remove it"]) from None
    except (OverflowError, RecursionError, ValueError):
        raise SpecError(["not YAML: an escape names no character, or lists nest too deeply"]) from None


def write_yaml(fields: Mapping[str, Any]) -> str:
    """Write fields as YAML, one a line in the order given, so that :func:`read_yaml` loses nothing."""
    return dump(dict(fields))


def dump(value: Any, *, flow: bool = False) -> str:
    """Write any value as YAML; in `flow` style on one line."""
    layout: Any = {"sort_keys": False, "allow_unicode": True, "width": math.inf, "default_flow_style": flow}
    return yaml.dump(value, Dumper=_Dumper, **layout)


def quote(text: str) -> str:
    """Write text as YAML in quotation marks on one line; what cannot be printed is escaped."""
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf).strip()

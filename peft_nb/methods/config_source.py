"""Config classes of PEFT and of our tuners, read out of their sources: to import them takes PEFT's seconds."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftConfig


LINK = re.compile(r"<a [^>]*>(.*?)</a>|\[([^\]]*)\]\([^)]*\)")


class ConfigClass:
    """A config class that is imported when it is called for.

    Parameters
    ----------
    name : str
        Its name, such as ``LoraConfig``.
    module : str, default "peft"
        What to import it from; for a tuner of ours that makes it known to PEFT, in this process and once.
    """

    def __init__(self, name: str, module: str = "peft") -> None:
        self.name, self.module = name, module

    def __call__(self) -> type[PeftConfig]:
        """Import it."""
        found: type[PeftConfig] = getattr(import_module(self.module), self.name)
        return found

    def fields(self) -> dict[str, Any]:
        """Read the fields that its constructor takes, with their defaults; None for what is made anew each time."""
        return {name: _value(said.get("default")) for name, said in _fields(self.name)}

    def help(self) -> dict[str, str]:
        """Read what its source says of the fields, where it says something: the first sentence."""
        found = {}
        for name, said in _fields(self.name):
            told = ast.literal_eval(said["metadata"]).get("help", "") if "metadata" in said else ""
            told = told if isinstance(told, str) else " ".join(told)  # a comma too many makes it a tuple
            plain = LINK.sub(r"\1\2", " ".join(told.split()))
            sentence, end, _ = plain.partition(". ")
            found[name] = sentence + end.strip()
        return {name: told for name, told in found.items() if told}


@cache
def _classes() -> dict[str, ast.ClassDef]:
    return {
        node.name: node
        for file in _files()
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }


def _files() -> Iterator[Path]:
    found = find_spec("peft")
    if found and found.origin:
        home = Path(found.origin).parent
        yield from (home / "config.py", *home.glob("tuners/lycoris_utils.py"), *home.glob("tuners/*/config.py"))
    yield from Path(__file__).parent.glob("*/config.py")


def _fields(name: str) -> Iterator[tuple[str, dict[str, ast.expr]]]:
    """The fields of a class and of those it is made of, each with the keywords of ``dataclasses.field``."""
    node = _classes().get(name)
    for base in node.bases if node else ():
        yield from _fields(ast.unparse(base).rpartition(".")[2])
    for one in node.body if node else ():
        if not isinstance(one, ast.AnnAssign) or not isinstance(one.target, ast.Name):
            continue
        said: dict[str, ast.expr] = {}
        if isinstance(one.value, ast.Call):
            said = {keyword.arg: keyword.value for keyword in one.value.keywords if keyword.arg}
        elif one.value:
            said["default"] = one.value
        if "init" not in said and not ast.unparse(one.annotation).startswith("ClassVar"):
            yield one.target.id, said


def _value(node: ast.expr | None) -> Any:
    """A default, None without one: a literal, or the value of a member of an enumeration."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        members = {
            ast.unparse(one.targets[0]): one.value
            for one in _classes()[node.value.id].body
            if isinstance(one, ast.Assign)
        }
        node = members[node.attr]
    return None if node is None else ast.literal_eval(node)

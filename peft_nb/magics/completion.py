"""Tab in a ``%%peft`` cell or ``%peft`` line: flags, fields, their values, methods, models, data and runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from peft_nb.evaluation.rewards import BUILT_IN
from peft_nb.magics.line import COMMANDS, Flag, positional, takes_value
from peft_nb.spec import ALIASES, RunSpec, notation
from peft_nb.spec.field_info import FieldInfo
from peft_nb.spec.names import NAMES
from peft_nb.spec.recipes import names
from peft_nb.spec.sweep import SweepSpec

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext, SimpleMatcherResult

    from peft_nb.store import Store

FIELDS = {field.name: field for field in [*RunSpec.describe(), *SweepSpec.describe()]}
FILES = "IPCompleter.file_matcher"
TABLES = {("pandas", "DataFrame"), ("datasets", "Dataset"), ("datasets", "DatasetDict"), ("peft_nb", "Labels")}


@dataclass(frozen=True)
class Found:
    """The text before the cursor that is completed, what may replace it, and whether a file may as well."""

    fragment: str = ""
    words: Iterable[str] = ()
    files: bool = False

    @property
    def matches(self) -> list[str]:
        """The words that begin with the fragment, each once, in order."""
        return [word for word in dict.fromkeys(self.words) if word.startswith(self.fragment)]


def complete(text: str, line: int, column: int, namespace: Mapping[str, Any]) -> Found:
    """Complete a cell at the cursor.

    Parameters
    ----------
    text : str
        The whole cell.
    line, column : int
        Where the cursor is, from 0.
    namespace : mapping
        The user's variables.

    Returns
    -------
    Found
        Empty where nothing of this package is being written.
    """
    lines = text.split("\n")
    before = lines[line][:column]
    if lines[0].split()[:1] == ["%%peft"] and line:
        return _body(before, [*lines[1:line], *lines[line + 1 :]], namespace)
    magic, *words = before.split() or [""]
    if magic not in ("%%peft", "%peft") or (not words and not before[-1:].isspace()):
        return Found()
    fragment = words.pop() if words and not before[-1].isspace() else ""
    return (_first_line if magic == "%%peft" else _command)(words, fragment, namespace)


def _first_line(words: list[str], fragment: str, namespace: Mapping[str, Any]) -> Found:
    known = notation.flags([*FIELDS.values(), *notation.CELL])
    if found := _flag(known, words, fragment, namespace):
        return found
    return Found(fragment, [*_methods(), *known] if not words else known)


def _command(words: list[str], fragment: str, namespace: Mapping[str, Any]) -> Found:
    if not words:
        return Found(fragment, COMMANDS)
    name, *given = words
    if name not in COMMANDS:
        return Found(fragment)
    known = COMMANDS[name].flags
    if found := _flag(known, given, fragment, namespace):
        return found
    said = list(positional(known, given))
    offered = _offered(COMMANDS[name].kinds(len(said)), fragment, namespace, said)
    return Found(fragment, [word for word in offered.words if word not in said] or known, offered.files)


def _flag(
    known: Mapping[str, FieldInfo], words: list[str], fragment: str, namespace: Mapping[str, Any]
) -> Found | None:
    flag, equals, value = fragment.partition("=")
    if equals and flag in known:
        return _values(known[flag], value, namespace)
    if words and takes_value(known, words[-1]):
        return _values(known[words[-1]], fragment, namespace)
    used = {word.partition("=")[0] for word in words}
    return Found(fragment, [name for name in known if name not in used]) if fragment.startswith("-") else None


def _body(before: str, others: list[str], namespace: Mapping[str, Any]) -> Found:
    name, colon, value = before.partition(":")
    if colon:
        field = FIELDS.get(ALIASES.get(name, name))
        return _values(field, value.lstrip(), namespace) if field else Found()
    used = {other.partition(":")[0] for other in others}
    return Found(before, [f"{field}: " for field in FIELDS if field not in used])


def _values(field: FieldInfo, fragment: str, namespace: Mapping[str, Any]) -> Found:
    kind = field.kind if isinstance(field, Flag) else FIELD_KINDS.get(field.name, "")
    if kind:
        return _offered([kind], fragment, namespace, [])
    return Found(fragment, ("true", "false") if field.type == "switch" else NAMES.get(field.name) or field.choices)


def _offered(kinds: Iterable[str], fragment: str, namespace: Mapping[str, Any], said: list[str]) -> Found:
    words = [word for kind in kinds for word in OFFERS[kind](namespace, said)]
    return Found(fragment, words, files=not FILE_KINDS.isdisjoint(kinds))


def _data(namespace: Mapping[str, Any], said: list[str]) -> Iterable[str]:
    from peft_nb.data.sources import BUILTIN

    return [*(name for name, value in namespace.items() if name[:1] != "_" and _is_data(value)), *BUILTIN]


def _models(namespace: Mapping[str, Any], said: list[str]) -> Iterable[str]:
    from peft_nb.models import ALIASES as MODELS

    return MODELS


def _methods(*_: object) -> Iterable[str]:
    import peft_nb.methods  # noqa: F401  (registers the methods)
    from peft_nb.spec import METHODS

    return METHODS


def _is_data(value: object) -> bool:
    # By name, because a variable can only be a table of a package that is imported already.
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(value).__mro__}
    return bool(kinds & TABLES) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, str) for one in value)


def _is_run(value: object) -> bool:
    return (type(value).__module__, type(value).__name__) == ("peft_nb.runs.run", "Run")


def _variables(namespace: Mapping[str, Any], said: list[str]) -> list[str]:
    return [name for name, value in namespace.items() if _is_run(value)]


def _runs(namespace: Mapping[str, Any], said: list[str]) -> list[str]:
    held = [name for name in _variables(namespace, said) if not name.startswith("_")]
    if store := _store():
        held += [*(record.name or record.id for record in store.all()), *store.aliases()]
    return held


def _routers(namespace: Mapping[str, Any], said: list[str]) -> list[str]:
    held = [name for name in namespace if not name.startswith("_")]
    return [name for name in held if type(namespace[name]).__module__ == "peft_nb.ui.router"]


def _sweeps(namespace: Mapping[str, Any], said: list[str]) -> list[str]:
    store = _store()
    return [one.name or one.id for one in store.sweeps.all()] if store else []


def _aliases(namespace: Mapping[str, Any], said: list[str]) -> list[str]:
    store = _store()
    known = store.aliases() if store else []
    if said:  # of the run before it
        return [*(word.partition("@")[2] for word in known), "production", "candidate"]
    return known


def _tags(namespace: Mapping[str, Any], said: list[str]) -> list[str]:
    store = _store()
    return store.tags() if store else []


def _scores(namespace: Mapping[str, Any], said: list[str]) -> list[str]:
    functions = [name for name, value in namespace.items() if name[:1] != "_" and isinstance(value, FunctionType)]
    return ["exact_match", "rouge_l", *functions]


def _rewards(namespace: Mapping[str, Any], said: list[str]) -> list[str]:
    functions = [name for name, value in namespace.items() if name[:1] != "_" and isinstance(value, FunctionType)]
    return [*BUILT_IN, *functions]


def _texts(namespace: Mapping[str, Any], said: list[str]) -> list[str]:
    texts = [name for name, value in namespace.items() if name[:1] != "_" and _is_texts(value)]
    return [name for name in texts if name != "In"]  # what IPython keeps of the cells


def _store() -> Store | None:
    # To open the store makes its folder, which pressing Tab must not do.
    if not Path(os.environ.get("PEFT_NB_STORE") or "peft_runs").expanduser().is_dir():
        return None
    from peft_nb.store import Store

    return Store()


def _indexes(namespace: Mapping[str, Any], said: list[str]) -> list[str]:
    """Variables that hold an index, and those that the store has."""
    store = _store()
    kept = sorted(one.parent.name for one in store.folder.glob("indexes/*/chunks.sqlite")) if store else []
    return [*(name for name, value in namespace.items() if type(value).__name__ == "Index"), *kept]


def _checklists(namespace: Mapping[str, Any], said: list[str]) -> list[str]:
    return sorted(one.stem for one in (Path(__file__).parents[1] / "runs" / "checklists").glob("*.yaml"))


# What may stand for each kind of argument or value, given the user's variables and the words before it.
OFFERS: dict[str, Callable[[Mapping[str, Any], list[str]], Iterable[str]]] = {
    "alias": _aliases,
    "base": lambda namespace, said: ["base"],
    "checklist": _checklists,
    "data": _data,
    "file": lambda namespace, said: (),
    "index": _indexes,
    "method": _methods,
    "model": _models,
    "path": lambda namespace, said: (),
    "recipe": lambda namespace, said: names(),
    "router": _routers,
    "run": _runs,
    "sweep": _sweeps,
    "tag": _tags,
    "score": _scores,
    "reward": _rewards,
    "texts": _texts,
    "topic": lambda namespace, said: [*COMMANDS, *_methods(), *FIELDS],
    "variable": _variables,
}
FILE_KINDS = {"data", "file", "model", "path"}  # where a file may stand as well
FIELD_KINDS = {"eval_data": "data", "regression": "data", "out": "variable"} | {
    name: name for name in ("data", "method", "model", "score", "reward")
}


def match(context: CompletionContext, namespace: Mapping[str, Any]) -> SimpleMatcherResult:
    """Put :func:`complete` at the service of a shell's completer, before everything else."""
    from IPython.core.completer import SimpleCompletion

    found = complete(context.full_text, context.cursor_line, context.cursor_position, namespace)
    return {
        "completions": [SimpleCompletion(text=word, type="peft_nb") for word in found.matches],
        "matched_fragment": found.fragment,
        "ordered": True,
        "suppress": True,
        "do_not_suppress": {FILES} if found.files else set(),
    }

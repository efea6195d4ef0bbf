"""Tab in a ``%%peft`` cell or ``%peft`` line: flags, fields, their values, methods, models, data and runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from peft_nb.magics.line import COMMANDS
from peft_nb.spec import ALIASES, RunSpec, notation
from peft_nb.spec.fields import FieldInfo
from peft_nb.spec.names import NAMES
from peft_nb.spec.recipes import names

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext, Matcher, SimpleMatcherResult
    from IPython.core.interactiveshell import InteractiveShell

    from peft_nb.store import Store

FIELDS = {field.name: field for field in RunSpec.describe()}
IDENTIFIER = "peft_nb"
FILES = "IPCompleter.file_matcher"
TABLES = {("pandas", "DataFrame"), ("datasets", "Dataset"), ("datasets", "DatasetDict")}


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
    known = notation.flags([*RunSpec.describe(), *notation.CELL])
    if found := _flag(known, words, fragment, namespace):
        return found
    return Found(fragment, [*_methods(), *known] if not words else known)


def _command(words: list[str], fragment: str, namespace: Mapping[str, Any]) -> Found:
    if not words:
        return Found(fragment, COMMANDS)
    name, *given = words
    usage = COMMANDS[name].usage if name in COMMANDS else ""
    known = COMMANDS[name].flags if name in COMMANDS else {}
    if found := _flag(known, given, fragment, namespace):
        return found
    if name == "help":
        return Found(fragment, [*COMMANDS, *_methods(), *FIELDS])
    if "RUN ..." in usage:
        base = ["base"] if "base" in usage else []
        return Found(fragment, [word for word in (*_runs(namespace), *base) if word not in given])
    if "RUN" in usage and not given:
        return Found(fragment, _runs(namespace))
    if usage.split()[len(given) : len(given) + 1] == ["ALIAS"]:
        return Found(fragment, _aliases(of_run=bool(given)))
    if usage.startswith("[RECIPE") and not given:
        return Found(fragment, names(), files="FILE" in usage)
    if usage.startswith(("NAME", "[DATA")) and not given:
        return _values(FIELDS["data"], fragment, namespace)
    if usage.startswith("[MODEL]") and not given:
        return _values(FIELDS["model"], fragment, namespace)
    return Found(fragment, known, files="FILE" in usage or "PATH" in usage)


def _flag(
    known: Mapping[str, FieldInfo], words: list[str], fragment: str, namespace: Mapping[str, Any]
) -> Found | None:
    flag, equals, value = fragment.partition("=")
    if equals and flag in known:
        return _values(known[flag], value, namespace)
    if words and words[-1] in known and known[words[-1]].type != "switch":
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
    if field.name in ("data", "eval_data", "regression"):
        from peft_nb.data.sources import BUILTIN

        tables = [name for name, value in namespace.items() if not name.startswith("_") and _is_data(value)]
        return Found(fragment, [*tables, *BUILTIN], files=True)
    if field.name == "model":
        from peft_nb.models import ALIASES as MODELS

        return Found(fragment, MODELS, files=True)
    if field.name == "method":
        return Found(fragment, _methods())
    if field.name == "score":
        functions = [name for name, value in namespace.items() if name[:1] != "_" and isinstance(value, FunctionType)]
        return Found(fragment, ["exact_match", "rouge_l", *functions])
    if field.name == "prompts":
        texts = [name for name, value in namespace.items() if name[0] != "_" and _is_texts(value)]
        return Found(fragment, [name for name in texts if name != "In"])  # what IPython keeps of the cells
    if field.name == "html":
        return Found(fragment, files=True)
    if field.name == "out":
        return Found(fragment, [name for name, value in namespace.items() if _is_run(value)])
    return Found(fragment, ("true", "false") if field.type == "switch" else NAMES.get(field.name, field.choices))


def _methods() -> Iterable[str]:
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


def _runs(namespace: Mapping[str, Any]) -> list[str]:
    held = [name for name, value in namespace.items() if not name.startswith("_") and _is_run(value)]
    if store := _store():
        held += [*(record.name or record.id for record in store.all()), *store.aliases()]
    return held


def _aliases(of_run: bool) -> list[str]:
    store = _store()
    known = store.aliases() if store else []
    return [*(word.partition("@")[2] for word in known), "production", "candidate"] if of_run else known


def _store() -> Store | None:
    # To open the store makes its folder, which pressing Tab must not do.
    if not Path(os.environ.get("PEFT_NB_STORE") or "peft_runs").expanduser().is_dir():
        return None
    from peft_nb.store import Store

    return Store()


def matcher(shell: InteractiveShell) -> Matcher:
    """Make the matcher that puts :func:`complete` at the service of a shell's completer, first of all."""
    from IPython.core.completer import SimpleCompletion, context_matcher

    @context_matcher(identifier=IDENTIFIER, priority=100)
    def match(context: CompletionContext) -> SimpleMatcherResult:
        found = complete(context.full_text, context.cursor_line, context.cursor_position, shell.user_ns)
        return {
            "completions": [SimpleCompletion(text=word, type="peft_nb") for word in found.matches],
            "matched_fragment": found.fragment,
            "ordered": True,
            "suppress": True,
            "do_not_suppress": {FILES} if found.files else set(),
        }

    return match

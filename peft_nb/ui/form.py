"""A form for a run: what it shows for what was typed into it, and the cell that says the same. Knows no widgets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape
from itertools import chain, count
from types import FunctionType
from typing import Any

from peft_nb import tasks
from peft_nb.data.sources import BUILTIN, data_variables
from peft_nb.errors import CommandError, SpecError
from peft_nb.methods import FIELDS as OPTIONAL
from peft_nb.methods import REGISTRY, Method, problems
from peft_nb.models import ALIASES
from peft_nb.runs import reporters
from peft_nb.spec import METHODS, RunSpec, notation
from peft_nb.spec.field_info import FieldInfo
from peft_nb.tasks import TASKS, Task
from peft_nb.ui import wording

Raw = Mapping[str, str | bool]
"""What stands in the form, by field: text, where nothing takes the default, or whether a box is ticked."""

SPEC = {info.name: info for info in RunSpec.describe()}
FIELDS = {**SPEC, "out": replace(notation.flags(notation.CELL)["--out"], default="run")}
ESSENTIAL = ("data", "model", "method", "epochs", "learning_rate", "out")  # what is shown of a form first
ADVANCED = ("performance", "evaluation", "logging")
LABELS = {"out": "save result as"}
EMPTY = '""'  # a text without characters, where an empty control stands for the default
EVERY_FIELD = "form"  # what a problem that belongs to no field is filed under


@dataclass(frozen=True)
class Entry:
    """One field as the form shows it.

    Attributes
    ----------
    info : FieldInfo
        What the field says of itself.
    help : str
        What it means, with its unit, its bounds and what stands for it where it is left empty.
    problem : str
        What is wrong with what was typed; empty where nothing is.
    used : bool
        Whether the chosen method and task have a use for it.
    usual : str
        What they take where it is left blank; empty where that is nothing.
    """

    info: FieldInfo
    help: str
    problem: str = ""
    used: bool = True
    usual: str = ""


@dataclass(frozen=True)
class Form:
    """What the form shows.

    Attributes
    ----------
    entries : dict of str to Entry
        All fields, in order.
    problems : dict of str to str
        What is wrong, by field.
    spec : RunSpec or None
        What is described; None while anything is wrong.
    cell : str
        The ``%%peft`` cell that says the same; empty while anything is wrong.
    """

    entries: dict[str, Entry]
    problems: dict[str, str]
    spec: RunSpec | None
    cell: str

    def valid_spec(self) -> RunSpec:
        """Give what is described.

        Raises
        ------
        SpecError
            While anything is wrong.
        """
        if self.spec is None:
            raise SpecError(f"{name}: {problem}" for name, problem in self.problems.items())
        return self.spec


def read(raw: Raw) -> Form:
    """Make of what was typed what the form shows.

    Parameters
    ----------
    raw : mapping of str to str or bool
        By field; what is missing is empty.

    Returns
    -------
    Form
        Every field with what is wrong with it. Fields that the method or the task has no use for count as empty.
    """
    method = REGISTRY.get(str(raw.get("method") or SPEC["method"].default))
    task = TASKS.get(str(raw.get("task") or SPEC["task"].default))
    used = {name: uses(method, task, name) for name in FIELDS}
    typed = {name: raw[name] for name in SPEC if used[name] and raw.get(name, "") != ""}
    wrong, spec, out = dict[str, str](), None, str(raw.get("out", ""))
    try:
        spec = RunSpec(**{name: _value(SPEC[name], value) for name, value in typed.items()})
        refused = problems(spec) + tasks.problems(spec) + reporters.problems(spec.report_to)
    except SpecError as error:
        refused = error.problems
    for line in refused:
        name, _, what = line.partition(": ")
        wrong[name] = f"{wrong[name]}; {what}" if name in wrong else what
    try:
        if out:
            notation.check_out(out)
    except CommandError as error:
        wrong["out"] = str(error).removeprefix("--out ")
    entries = {
        name: Entry(info, _help(info, method), wrong.get(name, ""), used[name], _usual(info, method, task))
        for name, info in FIELDS.items()
    }
    good = None if wrong else spec
    return Form(entries, wrong, good, good.to_magic(out) if good else "")


def uses(method: Method | None, task: Task | None, name: str) -> bool:
    """Tell whether a method and a task, where they are known, have a use for a field."""
    if name in OPTIONAL and method:
        return name in method.fields
    if name in tasks.options() and task:
        return name in task.options
    return name != "quantization" or method is None or len(method.quantizations) > 1


def blank() -> dict[str, str | bool]:
    """What stands in a form that nobody has touched."""
    return {name: text_of(info, info.default) for name, info in FIELDS.items()}


def filled(fields: Mapping[str, Any]) -> dict[str, str | bool]:
    """What stands in a form for some fields, such as those of a recipe.

    Parameters
    ----------
    fields : mapping
        Any fields of :class:`peft_nb.RunSpec`, as objects or as text.

    Returns
    -------
    dict of str to str or bool
        Only of those that differ from their default.

    Raises
    ------
    SpecError
        When one of them is wrong.
    """
    changed = RunSpec(**{"data": next(iter(BUILTIN)), **fields}).changed()
    return {name: text_of(SPEC[name], value) for name, value in changed.items() if name != "data" or "data" in fields}


def text_of(info: FieldInfo, value: Any) -> str | bool:
    """Write a value as a form shows it; null and an empty mapping are nothing."""
    if isinstance(value, bool):
        return value
    if value is None or value == {}:
        return False if info.type == "switch" else ""
    if isinstance(value, float) and float(short := f"{value:.10g}") == value:
        return short
    return EMPTY if value == "" else notation.write_value(info, value)


def _value(info: FieldInfo, typed: str | bool) -> Any:
    if isinstance(typed, bool):
        return typed
    if info.type == "mapping" and ": " in typed and not typed.startswith("{"):
        typed = f"{{{typed}}}"  # in a line of its own YAML would not ask for the braces
    return "" if info.type == "text" and typed == EMPTY else notation.read_value(info, typed)


def offered(namespace: Mapping[str, Any]) -> dict[str, list[str]]:
    """List what there is to choose from where other things may be written as well.

    Parameters
    ----------
    namespace : mapping
        The notebook's variables.

    Returns
    -------
    dict of str to list of str
        By field.
    """
    tables = [*data_variables(namespace), *BUILTIN]
    functions = [name for name, value in namespace.items() if name[:1] != "_" and isinstance(value, FunctionType)]
    return {
        "data": tables,
        "eval_data": tables,
        "regression": tables,
        "model": list(ALIASES),
        "score": ["exact_match", "rouge_l", *functions],
    }


def _usual(info: FieldInfo, method: Method | None, task: Task | None) -> str:
    own = {**(method.defaults if method else {}), **(task.options if task else {})}.get(info.name)
    if info.name == "learning_rate" and own and task:
        own *= task.rate
    return "" if own is None else f"{text_of(info, own)} (default)"


def _help(info: FieldInfo, method: Method | None) -> str:
    own = method.defaults.get(info.name) if method else None
    if info.name == "method" and method:
        return f"{method.help} When: {method.when}. Source: {method.source}."
    usual = text_of(info, info.default if own is None else own)
    told = f"{method.name} takes {usual}" if method and own is not None else f"default {usual}" if usual else ""
    bounds = info.bounds.removesuffix(", at most 1,000,000,000")  # which nobody will reach
    facts = "; ".join(filter(None, (info.unit, bounds, told if info.type not in ("switch", "choice") else "")))
    said = re.sub(r"(\. )?\bnull\b", lambda found: ". Blank" if found[1] else "blank", info.help)
    return said + (f" ({facts})" if facts else "")


def label(entry: Entry) -> str:
    """Name a control, and say where it is wrong, for who hears only the name."""
    name = LABELS.get(entry.info.name, entry.info.name.replace("_", " "))
    return f"{name}: error" if entry.problem else name


def note(entry: Entry) -> str:
    """Say below a control what is wrong with it, and what it means, which is shown while it has the focus; as HTML."""
    wrong = f'<div class="peft-nb-wrong" role="alert">Error: {escape(entry.problem)}</div>' if entry.problem else ""
    name = entry.info.flag if entry.info.section == "cell" else entry.info.name
    return f'{wrong}<div class="peft-nb-help"><b>{name}</b> {escape(entry.help)}</div>'


def found(words: str, entries: Mapping[str, Entry]) -> set[str]:
    """Name the fields that have all words in their names or their help; all of them where there are no words."""
    wanted = words.lower().replace("_", " ").split()
    texts = {
        name: " ".join([name, label(entry), *entry.info.aliases, entry.help]).lower().replace("_", " ")
        for name, entry in entries.items()
    }
    return {name for name, text in texts.items() if all(word in text for word in wanted)}


def wrong(form: Form) -> str:
    """Say how many errors there are and where, in one line; empty where there are none."""
    where = ", ".join(LABELS.get(name, name) for name in form.problems)
    return f"{wording.count(len(form.problems), 'error')}: {where}" if where else ""


def page(form: Form, estimate: str) -> str:
    """Write what is left of a form where no kernel runs: its estimate, and the cell that says the same."""
    return f"<p>{escape(wrong(form) or estimate)}</p><pre>{escape(form.cell)}</pre>"


def free(name: str, namespace: Mapping[str, Any]) -> str:
    """Choose a name for a variable that there is not yet: this one, or with the first number that is free."""
    names = chain([name], (f"{name}{number}" for number in count(2)))
    return next(one for one in names if one not in namespace)


def method_names(chosen: str = "") -> list[str]:
    """List the methods, and also the chosen one where no list names it."""
    return [*METHODS, *({chosen} - {"", *METHODS})]

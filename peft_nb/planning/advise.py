"""Which method to take: the rules of :mod:`.rules`, summed up for one situation into three ready cells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from shlex import quote
from textwrap import indent
from typing import Any

from pydantic import ValidationError

from peft_nb.errors import ModelError, SpecError
from peft_nb.methods import FIELDS, REGISTRY, Method, problems
from peft_nb.planning.rules import DETOURS, LAYOUTS, REWARD, RULES, Detour, Rule, Situation
from peft_nb.spec import METHODS, RunSpec, explain
from peft_nb.tasks import for_kind

CHOICES = 3
LOOKED = 2000  # rows that are measured
PLACEHOLDER = "your_rows"


@dataclass(frozen=True)
class Choice:
    """A method, the spec that uses it, its points and the rules they come from."""

    method: Method
    spec: RunSpec
    points: int
    rules: tuple[Rule, ...]

    @property
    def cell(self) -> str:
        """The notebook cell that trains it."""
        return self.spec.to_magic()

    @property
    def reasons(self) -> list[str]:
        """When to use it, what speaks for it and against it, and why its settings are what they are."""
        signs = {rule: "+" if rule.points > 0 else "−" if rule.points else "·" for rule in self.rules}
        rules = [f"{sign} {rule.reason} ({rule.evidence})" for rule, sign in signs.items()]
        return [f"· when: {self.method.when} ({self.method.source})", *rules]


@dataclass(frozen=True, repr=False)
class Advice:
    """Three ranked methods for a situation, and what to do instead where fine-tuning is the wrong tool.

    Attributes
    ----------
    situation : Situation
        What was told and found.
    detours : tuple of Detour
        Why not to fine-tune, or not yet, and what to do instead.
    choices : tuple of Choice
        The best first; fewer than three only if fewer methods can serve.
    notes : tuple of str
        What was not taken into account, and what to fill in.
    """

    situation: Situation
    detours: tuple[Detour, ...]
    choices: tuple[Choice, ...]
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """Repeat what the advice rests on."""
        told = {
            name: value for name, value in self.situation.model_dump().items() if not (value is None or value is False)
        }
        return ", ".join(f"{name.replace('_', ' ')} {_said(value)}".strip() for name, value in told.items())

    def __repr__(self) -> str:
        lines = [f"advice for {self.headline}", ""]
        for detour in self.detours:
            lines += [f"First: {detour.problem} ({detour.evidence}).", f"  Instead: {detour.instead}.", ""]
        for rank, choice in enumerate(self.choices, 1):
            lines += [f"{rank}. {choice.method.name}: {choice.method.help}", *(f"   {said}" for said in choice.reasons)]
            lines += ["", indent(choice.cell.rstrip(), "   "), ""]
        return "\n".join([*lines, *self.notes]).rstrip()

    def _repr_html_(self) -> str:
        parts = [f"<p>Advice for {escape(self.headline)}</p>"]
        for detour in self.detours:
            problem, instead, evidence = map(escape, (detour.problem, detour.instead, detour.evidence))
            parts.append(f"<p><b>First: {problem}.</b> Instead: {instead}. <small>{evidence}</small></p>")
        for rank, choice in enumerate(self.choices, 1):
            reasons = "".join(f"<li>{escape(said)}</li>" for said in choice.reasons)
            head = f"<b>{rank}. {escape(choice.method.name)}</b> {escape(choice.method.help)}"
            parts.append(f'<p>{head}</p><ul style="list-style:none">{reasons}</ul><pre>{escape(choice.cell)}</pre>')
        return "\n".join([*parts, *(f"<p><small>{escape(note)}</small></p>" for note in self.notes)])


def advise(data: Any = None, *, namespace: Mapping[str, Any] | None = None, **known: Any) -> Advice:
    """Say which method fits a job best, and whether fine-tuning fits it at all; imports no PyTorch.

    Parameters
    ----------
    data : str, DataFrame, list of dict, Dataset or DatasetDict, optional
        The training rows or their name: they are counted and measured, which tells ``rows``, ``tokens``, ``classes``.
    namespace : mapping, optional
        The notebook's variables.
    **known
        Any field of :class:`.rules.Situation`: ``task``, ``goal``, ``rows``, ``classes``, ``tokens``, ``model``,
        ``parameters``, ``memory_gb`` (GB), ``minutes``, ``must_merge``, ``many_adapters``.

    Returns
    -------
    Advice
        The same for the same situation; shown by a notebook, with a ready ``%%peft`` cell for each method.

    Raises
    ------
    SpecError
        When a field is unknown or out of bounds.
    DataError
        When the data cannot be found, read or recognised.
    """
    if isinstance(data, str | Path):
        known["data"] = str(data)
    situation = _situation(known)
    if data is not None or situation.data is not None:
        found = _measured(situation.data if data is None else data, namespace)
        situation = situation.model_copy(update={**found, **_told(situation)})
    if situation.task is None:
        kind = "labelled" if situation.classes else LAYOUTS.get(situation.goal or "", "chat")
        task = for_kind(kind).name
        situation = situation.model_copy(update={"task": task})
    notes = []
    if situation.memory_gb is not None and situation.parameters is None:
        model = situation.model or _default_model(situation)
        situation = situation.model_copy(update={"parameters": _parameters(model, namespace)})
        if situation.parameters is None:
            notes.append(f"{model} is not on this machine, so memory was not considered; --parameters 7e9 tells it")
    if situation.data is None:
        notes.append(f"{PLACEHOLDER} stands for the name of your data.")
    model = quote(situation.model or _default_model(situation))
    notes.append(f"%peft methods {model} shows which methods fit the model, and how many parameters they train.")
    choices = _choices(situation)[:CHOICES]
    for first in choices[:1]:
        named = f"{quote(situation.data or PLACEHOLDER)} --method {first.method.name}"
        if first.spec.reward:
            notes.append(f"{REWARD} stands for a function of yours: {REWARD}(prompt, completion) gives a number.")
            named += f" --task {first.spec.task} --reward {REWARD}"
        notes.append(f"%peft estimate {named} estimates memory and time of the first.")
    return Advice(situation, _detours(situation), choices, tuple(notes))


def _situation(known: Mapping[str, Any]) -> Situation:
    try:
        return Situation(**known)
    except ValidationError as refused:
        raise SpecError(explain(one, Situation) for one in refused.errors(include_url=False)) from None


def _told(situation: Situation) -> dict[str, Any]:
    return {name: value for name, value in situation.model_dump().items() if value is not None}


def _measured(data: Any, namespace: Mapping[str, Any] | None) -> dict[str, Any]:
    """Count the rows, and measure some of them spread over the table."""
    from peft_nb.data import RowProblem, detection, sources
    from peft_nb.data.quality.lengths import CHARACTERS_A_TOKEN

    rows = sources.read(data, namespace).train
    layout = detection.detect(rows)
    looked = [rows[place] for place in range(0, len(rows), -(-len(rows) // LOOKED))]
    columns = layout.written.values()  # an image has no length
    lengths = sorted(sum(len(str(row.get(column) or "")) for column in columns) for row in looked)
    found: dict[str, Any] = {"rows": len(rows)}
    if layout.kind not in ("image", "captioned", "audio"):
        found["tokens"] = max(1, lengths[len(lengths) * 19 // 20] // CHARACTERS_A_TOKEN)
    if layout.kind in ("labelled", "image"):
        labels = set()
        for row in looked:
            try:
                labels |= {*layout.labels(row)}
            except RowProblem:
                continue
        found["classes"] = max(1, len(labels))
    if for_kind(layout.kind) is not for_kind("chat"):
        found["task"] = for_kind(layout.kind).name
    return found


def _parameters(model: str, namespace: Mapping[str, Any] | None) -> float | None:
    """Count a model's parameters without loading it: known by name, live, or in the heads of its safetensors."""
    from peft_nb.models import ALIASES
    from peft_nb.models.resolve import resolve

    if model in ALIASES:
        return ALIASES[model].parameters
    try:
        source = resolve(model, namespace=namespace)
    except ModelError:
        return None
    if source.pair:
        return sum(one.numel() for one in source.pair[0].parameters())
    files = sorted(source.path.glob("model*.safetensors")) if source.path else []
    return sum(map(_numbers, files)) or None


def _numbers(file: Path) -> int:
    with file.open("rb") as opened:
        head = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    total = 0
    for name, tensor in head.items():
        size = 1
        for side in tensor["shape"] if name != "__metadata__" else (0,):
            size *= side
        total += size
    return total


def _detours(situation: Situation) -> tuple[Detour, ...]:
    return tuple(detour for detour in DETOURS if detour.when(situation))


def _choices(situation: Situation) -> tuple[Choice, ...]:
    holding = [rule for rule in RULES if rule.when(situation)]
    found = []
    for method in map(REGISTRY.__getitem__, METHODS):
        rules = tuple(rule for rule in holding if rule.methods(method))
        spec = _spec(situation, method, rules)
        if not problems(spec) and (method.mergeable or not situation.must_merge):
            found.append(Choice(method, spec, sum(rule.points for rule in rules), rules))
    return tuple(sorted(found, key=lambda choice: -choice.points))  # of equals, the one registered first


def _spec(situation: Situation, method: Method, rules: tuple[Rule, ...]) -> RunSpec:
    fields: dict[str, Any] = {"data": situation.data or PLACEHOLDER, "method": method.name}
    fields |= {name: getattr(situation, name) for name in ("task", "model") if getattr(situation, name)}
    foreign = FIELDS.keys() - method.fields.keys()
    for rule in rules:
        fields |= {name: value for name, value in rule.sets(situation, method).items() if name not in foreign}
    if fields.get("quantization") == method.quantizations[0]:
        del fields["quantization"]
    return RunSpec(**fields)


def _default_model(situation: Situation) -> str:
    return situation.learned.model or RunSpec.model_fields["model"].default


def _said(value: Any) -> str:
    return "" if value is True else f"{value:,.10g}" if isinstance(value, int | float) else str(value)

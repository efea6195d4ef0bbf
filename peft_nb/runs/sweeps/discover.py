"""Which sweep finds the best adapter for some rows: from the advice, earlier runs on like rows, and the model.

Two things are drawn from: :mod:`peft_nb.planning.advise` names the methods and their settings, and the store the
settings of the best earlier runs. Both are tried first; the search then goes on from there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from peft_nb.data.table import Table
from peft_nb.errors import PeftNbError
from peft_nb.methods import REGISTRY, complete, problems
from peft_nb.models.quiet import quiet
from peft_nb.planning.advise import advise
from peft_nb.runs import model, rows
from peft_nb.runs.context import Inputs
from peft_nb.spec import RunSpec
from peft_nb.spec.sweep import SweepSpec
from peft_nb.store import Facts, Record, Store
from peft_nb.tasks import TASKS

RANKS = (4, 64)
RATES = (0.5, 8.0)  # times the lowest, and the highest, of the learning rates that the methods take by default
EARLIER = 2  # runs whose settings are tried
TRIALS = 8  # that are to fit into the time, at least
BESIDE_S = 15.0  # of a trial beside training and evaluations: the base, estimates, sample answers, forgetting, latency
LEAST = 0.1  # share of the training that is worth a trial


@dataclass(frozen=True)
class Plan:
    """What will be searched.

    Attributes
    ----------
    spec : SweepSpec
        The sweep.
    first : tuple of dict
        Values to try first.
    told : tuple of str
        Where they come from.
    """

    spec: SweepSpec
    first: tuple[dict[str, Any], ...]
    told: tuple[str, ...]


def plan(fields: Mapping[str, Any], inputs: Inputs, minutes: float, store: Store) -> Plan:
    """Say which sweep to make for some rows.

    Parameters
    ----------
    fields : mapping
        What is fixed, such as ``data`` and perhaps ``model``: fields of a run, not yet checked.
    inputs : Inputs
        What was passed in place of names.
    minutes : float
        How long it may take.
    store : Store
        Whose runs are looked at.

    Returns
    -------
    Plan
        Of the methods that are advised, or the one that is fixed.

    Raises
    ------
    PeftNbError
        What is wrong with the fields or the rows.
    """
    given = RunSpec(**fields)
    asked = given.data if inputs.data is None else inputs.data
    known = {name: getattr(given, name) for name in ("task", "model") if name in given.changed()}
    if inputs.model is not None:
        known.pop("model", None)
    advice = advise(asked, namespace=inputs.namespace, minutes=minutes, **known)
    choices = [one.spec for one in advice.choices]
    taken = {name: getattr(choices[0], name) for name in ("task", "model", "max_length", "epochs")}
    base = RunSpec(**{**taken, **given.changed()})
    base, table, facts = rows.read(base, inputs)
    told = [f"methods by %peft advise: {', '.join(one.method for one in choices)}"]
    if not fields.keys() & {"epochs", "max_steps"} and (share := _share(base, table, facts, inputs, minutes)) < 1:
        base = RunSpec(**{**base.changed(), "epochs": float(f"{share * base.epochs:.2g}")})
        fit = f"each trial trains for {base.epochs:g} epochs, so that about {TRIALS} fit into the time"
        told.append(f"{fit}; raise epochs in the cell for a longer run")
    earlier = list(_earlier(base, facts, store))
    told += [f"settings of run {record.id}, which learned {why}, are tried too" for record, _, why in earlier]
    names = (
        [base.method] if "method" in fields else [one.method for one in (*choices, *(spec for _, spec, _ in earlier))]
    )
    methods = [name for name in dict.fromkeys(names) if not problems(_with(base, name))]
    space = _space(base, methods, inputs, [spec for _, spec, _ in earlier])
    fixed = {name: value for name, value in base.changed().items() if name not in space}
    if "method" not in space:
        fixed["method"] = methods[0]
    objectives = ["eval_loss", *_forgetting(base), "adapter_mb"]
    spec = SweepSpec(**fixed, sweep=space, minutes=minutes, minimize=objectives)
    starts = [_with(base, one.method, r=one.r) for one in choices] + [one for _, one, _ in earlier]
    first = [_settings(one, space) for one in starts]
    return Plan(spec, tuple(first), tuple(told))


def _settings(start: RunSpec, space: Mapping[str, Any]) -> dict[str, Any]:
    """What a run to begin with has of what is varied; its layers, where they are among those to choose from."""
    full, layers = complete(start), "target_modules"
    found = {name: getattr(full, name) for name in space if name != layers}
    found = {name: value for name, value in found.items() if value is not None}
    for choice in space.get(layers, ()) if layers in REGISTRY[start.method].fields else ():
        if complete(RunSpec(**{**start.changed(), layers: choice})).target_modules == full.target_modules:
            found[layers] = choice
    return found


def _share(base: RunSpec, table: Table, facts: Facts, inputs: Inputs, minutes: float) -> float:
    """The share of the training that a trial has time for; 1 where that is not foreseen."""
    from peft_nb.planning import memory, recall

    with suppress(PeftNbError), quiet():
        ahead = recall.foresee(base, model.find(base, inputs), table, facts.task, memory.process())
        if ahead.seconds:
            beside = BESIDE_S + 2 * (ahead.evaluation_seconds or 0.0)  # the base is evaluated too
            return max(LEAST, (60 * minutes / TRIALS - beside) / ahead.seconds)
    return 1.0


def _with(base: RunSpec, method: str, **fields: Any) -> RunSpec:
    return RunSpec(**{**base.changed(), "method": method, **{name: one for name, one in fields.items() if one}})


def _space(base: RunSpec, methods: list[str], inputs: Inputs, earlier: list[RunSpec]) -> dict[str, Any]:
    """What is varied of what is not fixed: method, rank, layers, learning rate; around the settings of earlier runs."""
    fixed, found = base.changed(), dict[str, Any]()
    if len(methods) > 1:
        found["method"] = methods
    fields = {name for method in methods for name in REGISTRY[method].fields}
    if "r" in fields and "r" not in fixed:
        found["r"] = {"low": RANKS[0], "high": RANKS[1], "log": True}
    if "target_modules" in fields and "target_modules" not in fixed and (attention := _attention(base, inputs)):
        found["target_modules"] = [None, attention]
    if "learning_rate" not in fixed:
        usual = [rate for name in methods if (rate := complete(_with(base, name)).learning_rate)]
        known = [rate for one in earlier if (rate := complete(one).learning_rate)]
        low, high = min(RATES[0] * min(usual), *known, 10), max(RATES[1] * max(usual), *known, 0)
        found["learning_rate"] = {"low": low, "high": min(high, 10), "log": True}
    return found


def _attention(base: RunSpec, inputs: Inputs) -> list[str]:
    """The layers of attention that LoRA's paper adapts, by PEFT's table; none for a model that is not known yet."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as usual

    kind = None
    with suppress(PeftNbError, OSError, ValueError):
        source = model.find(base, inputs)
        if source.pair:
            kind = source.pair[0].config.model_type
        elif source.path:
            kind = json.loads((source.path / "config.json").read_text(encoding="utf-8")).get("model_type")
    return list(usual.get(kind, ()))


def _forgetting(base: RunSpec) -> list[str]:
    """The metric of forgetting, where runs of the task measure it."""
    return ["forgetting"] * ("forgetting" in TASKS[base.task].evaluator().parts(base))


def _earlier(base: RunSpec, facts: Facts, store: Store) -> Iterator[tuple[Record, RunSpec, str]]:
    """The best earlier runs on the same rows, else on rows of the same task and layout, with what they learned."""
    found = []
    for record in store.all():
        loss = record.metrics.get("eval_loss")
        if record.status != "finished" or loss is None or record.facts.layout != facts.layout:
            continue
        with suppress(PeftNbError):
            spec = RunSpec.from_yaml(record.spec_yaml)
            alike = all(getattr(spec, name) == getattr(base, name) for name in ("task", "model"))
            if alike and spec.method in REGISTRY:
                found.append((record.facts.fingerprint != facts.fingerprint, loss, record, spec))
    for other, _, record, spec in sorted(found, key=lambda one: one[:2])[:EARLIER]:
        yield record, spec, "other rows of this layout" if other else "these rows"

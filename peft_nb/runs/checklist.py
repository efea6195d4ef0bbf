"""Checklists of laws and frameworks, filled from what the store knows of a run; what it cannot know stays blank.

A checklist is one YAML file in ``checklists/``: its title, the law with a link, and items that say where in the law
they stand, what they ask and, by ``from``, which of `ANSWERS` fills them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

import yaml

from peft_nb.adapters.card import escaped
from peft_nb.errors import RunError, nearest
from peft_nb.methods import REGISTRY
from peft_nb.metrics import METRICS
from peft_nb.models import ALIASES
from peft_nb.runs.rows import DATA
from peft_nb.spec import RunSpec
from peft_nb.store import Lineage, Store
from peft_nb.store.policies import Policy
from peft_nb.tasks import TASKS

NO_ADVICE = (
    "This is no legal advice. It holds what the tool knows; whether that is enough, people decide, who fill the blanks."
)
FOLDER = files("peft_nb.runs") / "checklists"
NAMES = tuple(sorted(one.name.removesuffix(".yaml") for one in FOLDER.iterdir() if one.name.endswith(".yaml")))
PER_TOKEN = 6  # operations for each parameter and token in training (Kaplan et al., 2020)
PRETRAINED = {"smollm2-135m": 2e12}  # tokens, as the model's authors say


@dataclass(frozen=True)
class Item:
    """A question of a checklist: where it stands, what it asks, and the answer, empty where nobody knows it."""

    at: str
    asks: str
    answer: str


@dataclass(frozen=True)
class Checklist:
    """A checklist for a run.

    Attributes
    ----------
    run : str
        What it is about.
    title, law, link : str
        Of the law or framework.
    items : tuple of Item
        In its order.
    """

    run: str
    title: str
    law: str
    link: str
    items: tuple[Item, ...]

    @property
    def blanks(self) -> int:
        """Items that are left for people to fill."""
        return sum(not item.answer for item in self.items)

    def to_markdown(self) -> str:
        """Write it as Markdown."""
        lines = [f"# {self.title}: {escaped(self.run)}", NO_ADVICE, f"Source: [{self.law}]({self.link}). {self.said}."]
        table = ["| where | what | answer |", "| --- | --- | --- |"]
        table += [f"| {one.at} | {one.asks} | {escaped(one.answer) or '(blank)'} |" for one in self.items]
        return "\n\n".join([*lines, "\n".join(table)]) + "\n"

    @property
    def said(self) -> str:
        """How much of it is filled, in words."""
        return f"{len(self.items) - self.blanks} of {len(self.items)} filled from the store, {self.blanks} blank"


def checklist(store: Store, word: str, name: str) -> Checklist:
    """Fill a checklist.

    Parameters
    ----------
    store : Store
        Where the run is.
    word : str
        The run, as in :meth:`Store.get`.
    name : str
        One of ``eu-ai-act``, ``gdpr``, ``hipaa`` and ``nist-ai-rmf``.

    Returns
    -------
    Checklist
        With an answer wherever the store knows one.

    Raises
    ------
    RunError
        If there is no such checklist.
    StoreError
        If there is no such run.
    """
    if name not in NAMES:
        raise RunError(f"there is no checklist {name!r}{nearest(name, NAMES)}; there are {', '.join(NAMES)}")
    told = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    known = Known(store, store.lineage(word))
    items = [
        Item(one["at"], one["asks"], ANSWERS[one["from"]](known) if "from" in one else "") for one in told["items"]
    ]
    return Checklist(known.lineage.record.title, told["title"], told["law"], told["link"], tuple(items))


@dataclass(frozen=True)
class Known:
    """What is known of a run, for the answers."""

    store: Store
    lineage: Lineage

    @cached_property
    def spec(self) -> RunSpec:
        """What was asked."""
        return RunSpec.from_yaml(self.lineage.record.spec_yaml)

    @property
    def metrics(self) -> Mapping[str, Any]:
        """What was measured."""
        return self.lineage.record.metrics

    @cached_property
    def data(self) -> Mapping[str, Any]:
        """What the check of its rows told; empty where there was none."""
        try:
            found: dict[str, Any] = json.loads((self.lineage.record.folder / DATA).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found


def _used(key: str) -> Callable[[Known], str]:
    return lambda known: known.spec.use.get(key, "")


def _data_origin(known: Known) -> str:
    origin, digest = known.lineage.data, known.lineage.data_fingerprint
    documents = known.lineage.record.facts.documents or {}
    index = f"documents of the index {documents['index']}" if documents else ""
    return "; ".join(filter(None, [origin, f"SHA-256 of the rows {digest}" if digest else "", index]))


def _data_preparation(known: Known) -> str:
    changes = [str(change) for change in known.data.get("changes", [])]
    layout = known.data.get("layout") or known.lineage.record.facts.layout
    return "; ".join(filter(None, [f"read as {layout}" if layout else "", *changes, *known.data.get("notes", [])]))


def _data_findings(known: Known) -> str:
    if not known.data:
        return ""
    return "; ".join(found["title"] for found in known.data.get("findings", [])) or "the check found no problems"


def _personal_data(known: Known) -> str:
    if not known.data:
        return ""
    what = {"warn": "left as they were", "redact": "redacted", "refuse": "refused"}[known.spec.personal_data]
    found = [one["title"] for one in known.data.get("findings", []) if one.get("kind") in ("personal", "secret")]
    unlooked = [note for note in known.data.get("notes", []) if "personal data were not looked for" in note]
    if unlooked:
        return ""
    return f"{'; '.join(found)}; {what}" if found else "none was found by the check, which finds patterns and names"


def _base(known: Known) -> str:
    alias = ALIASES.get(known.spec.model)
    digest = known.lineage.base_hash
    parts = [known.lineage.base or known.lineage.record.model, f"license {alias.license}" if alias else ""]
    return "; ".join(filter(None, [*parts, f"weights {digest}" if digest else ""]))


def _method(known: Known) -> str:
    spec, metrics = known.spec, known.metrics
    trained = metrics.get("trainable_parameters")
    parts = [f"task {spec.task}", f"method {spec.method} ({REGISTRY[spec.method].source})"]
    return "; ".join([*parts, f"{trained:,} trainable parameters"] if trained else parts)


def _compute(known: Known) -> str:
    names = ("wall_seconds", "cpu_seconds", "gpu_seconds", "peak_memory_mb")
    measured = [(METRICS[name], known.metrics.get(name)) for name in names]
    told = [f"{metric.title} {value:,.0f} {metric.unit}" for metric, value in measured if value]
    if (energy := known.metrics.get("energy_kwh")) is not None:
        carbon = known.metrics.get("co2_kg")
        told.append(f"energy {1000 * energy:,.2f} Wh" + (f", {1000 * carbon:,.2f} g of CO₂" if carbon else ""))
    facts = known.lineage.record.facts
    return "; ".join([*told, f"{facts.device}, {facts.dtype}"] if facts.device else told)


def _compute_share(known: Known) -> str:
    tokens, parameters = PRETRAINED.get(known.spec.model), known.metrics.get("total_parameters")
    seen = (known.metrics.get("tokens_per_second") or 0) * (known.metrics.get("train_seconds") or 0)
    if not seen or not parameters:
        return ""
    took = PER_TOKEN * parameters * seen
    share = f"{seen / tokens:.1e} of the base's" if tokens else "those of the base are not known"
    return f"about {took:.1e} operations (6 for each parameter and token); {share}"


def _measured(known: Known, *suites: str) -> str:
    told = []
    for one in known.lineage.evaluations:
        if one.suite in suites and one.value is not None:
            within = "" if one.low is None or one.high is None else f" ({one.low:.3g} to {one.high:.3g})"
            metric = METRICS.get(one.measure)
            told.append(f"{metric.title if metric else one.measure} {one.value:.4g}{within}")
    return "; ".join(told)


def _evaluation(known: Known) -> str:
    told, examples = _measured(known, "held-out", "regression"), known.metrics.get("eval_examples")
    return f"on {examples:,} examples: {told}" if told and examples else told


def _accuracy(known: Known) -> str:
    return _measured(known, "held-out")


def _criteria(known: Known) -> str:
    wanted = ", ".join(f"{name} {bound}" for name, bound in known.spec.accept.items())
    return f"{wanted}: {known.metrics.get('verdict') or 'no verdict'}" if wanted else ""


def _verdict(known: Known) -> str:
    return str(known.metrics.get("verdict") or "")


def _limits(known: Known) -> str:
    return " ".join(TASKS[known.spec.task].limits(known.metrics))


def _versions(known: Known) -> str:
    return ", ".join(" ".join([one.title, *(f"@{alias}" for alias in one.aliases)]) for one in known.lineage.versions)


def _log(known: Known) -> str:
    broken = known.store.whole_log()
    state = "changed after it was written" if broken else "hash-chained, unchanged"
    return f"{len(known.store.log(known.lineage.record.id)):,} lines on this run in the store's log, {state}"


def _integrity(known: Known) -> str:
    if known.lineage.damage:
        return ", ".join(f"{path} is {state}" for path, state in known.lineage.damage.items())
    return (
        f"SHA-256 of {len(known.lineage.files)} files kept and compared now: unchanged" if known.lineage.files else ""
    )


def _approvals(known: Known) -> str:
    record = known.lineage.record
    told = [one for one in known.store.log(record.id) if one.action == "approve"]
    valid = set(known.store.approvals(record.id))
    return "; ".join(f"{one.named} on {one.at:%Y-%m-%d}: {one.why}" for one in reversed(told) if one.named in valid)


def _policy(known: Known) -> str:
    policies: Mapping[str, Policy] = known.store.policies()
    return "; ".join(f"{alias}: {policy}" for alias, policy in policies.items())


def _rollback(known: Known) -> str:
    held = known.lineage.record.aliases
    return "; ".join(f"%peft rollback {known.lineage.record.name}@{alias}" for alias in held)


def _erasure(known: Known) -> str:
    return "%peft forget --person TEXT finds the runs whose rows hold a text, and what has to be trained again"


def _local(known: Known) -> str:
    trackers = known.spec.report_to
    sent = f"losses and settings were sent to {', '.join(trackers)}" if trackers else "nothing was sent anywhere"
    return f"trained {'on a cluster' if known.lineage.record.facts.place else 'on one machine'}; {sent}"


ANSWERS: dict[str, Callable[[Known], str]] = {
    "accuracy": _accuracy,
    "affected": _used("affected"),
    "approvals": _approvals,
    "base": _base,
    "compute": _compute,
    "compute_share": _compute_share,
    "criteria": _criteria,
    "data_findings": _data_findings,
    "data_origin": _data_origin,
    "data_preparation": _data_preparation,
    "erasure": _erasure,
    "evaluation": _evaluation,
    "integrity": _integrity,
    "limits": _limits,
    "local": _local,
    "log": _log,
    "method": _method,
    "oversight": _used("human_oversight"),
    "personal_data": _personal_data,
    "policy": _policy,
    "purpose": _used("purpose"),
    "risk": _used("risk"),
    "rollback": _rollback,
    "verdict": _verdict,
    "versions": _versions,
}
"""What fills an item of a checklist, by its ``from``."""

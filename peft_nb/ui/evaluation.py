"""How an evaluation is said: lines of the summary, and a verdict for people who never saw a loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from peft_nb.metrics import METRICS, Metric
from peft_nb.ui import wording

SHOWN = ("documents", "probe", "benchmarks")  # suites that are listed where they were measured
SIGNS = {"<=": "at most", ">=": "at least", "<": "below", ">": "above"}


def rows(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List what was found of the answers and of what the base could do, as label and value.

    Parameters
    ----------
    metrics : mapping
        ``run.metrics``.

    Returns
    -------
    list of tuple of str and str
        Only what was measured.
    """
    found = []
    if metrics.get("score") is not None and "accuracy" not in metrics:
        found += labelled("score", _change(metrics, "score"))
    if (rise := metrics.get("forgetting")) is not None:
        worst = [f"{name} ({more:+.2f})" for name, more in metrics.get("worst_hit", ())[:3]]
        hit = f"; largest increase: {', '.join(worst)}" if worst else ""
        between = _interval(metrics.get("forgetting_interval"), "+.3f")
        found += labelled("forgetting", f"{rise:+.3f} nats per token{between}, lower is better{hit}")
    if metrics.get("regression_score") is not None:
        found += labelled("regression_score", _change(metrics, "regression_score"))
    return found + own(metrics, (one for one in METRICS.values() if one.suite in SHOWN))


def own(metrics: Mapping[str, Any], of: Iterable[Metric]) -> list[tuple[str, str]]:
    """List the metrics of a task of which it is known which way is better, as label and value."""
    found = []
    for metric in of:
        if metric.better and (after := metrics.get(metric.name)) is not None:
            before = metrics.get(metric.base)
            said = [wording.measured(one, metric.unit) for one in (before, after) if one is not None]
            between = metrics.get(f"{metric.name}_interval")
            sure = f" (95 %: {' to '.join(wording.measured(one, metric.unit) for one in between)})" if between else ""
            found += labelled(metric.name, " → ".join(said) + sure)
    return found


def labelled(key: str, value: str) -> list[tuple[str, str]]:
    """Make the line of a metric: its title with its key, and its value."""
    title = METRICS[key].title
    return [(title if title == key else f"{title} ({key})", value)]


def _change(metrics: Mapping[str, Any], name: str) -> str:
    before, after = metrics.get(f"base_{name}"), metrics[name]
    said = f"{before:.2f} → {after:.2f}" if before is not None else f"{after:.2f}"
    return said + _interval(metrics.get(f"{name}_interval"), ".2f")


def _interval(bounds: Any, digits: str) -> str:
    return f" (95 %: {bounds[0]:{digits}} to {bounds[1]:{digits}})" if bounds else ""


def cost(metrics: Mapping[str, Any], unit: str) -> list[tuple[str, str]]:
    """List what a run and its adapter take, as label and value; latency is given for one `unit`, such as a token."""
    found = []
    for key in ("wall_seconds", "cpu_seconds", "gpu_seconds", "adapter_mb"):
        if metrics.get(key) is not None:
            found += labelled(key, wording.measured(metrics[key], METRICS[key].unit))
    if metrics.get("latency_ms") is not None:
        base = f", base model {metrics['base_latency_ms']:.3g}" if metrics.get("base_latency_ms") is not None else ""
        found += labelled("latency_ms", f"{metrics['latency_ms']:.3g} ms per {unit}{base}")
    return found


def verdict(metrics: Mapping[str, Any]) -> str:
    """Say whether a run reached what was demanded of it.

    Parameters
    ----------
    metrics : mapping
        ``run.metrics``.

    Returns
    -------
    str
        One or two sentences without jargon; empty where nothing was demanded.
    """
    lines = metrics.get("criteria") or []
    if not lines:
        return ""
    short = [_line(line) for line in lines if not line["passed"]]
    if short:
        return f"Verdict: failed, {len(short)} of {wording.count(len(lines), 'demand')} not met. {'. '.join(short)}."
    return f"Verdict: passed, everything demanded was met. {'. '.join(map(_line, lines))}."


def _line(line: Mapping[str, Any]) -> str:
    metric = METRICS.get(line["metric"], Metric(line["metric"]))
    name = metric.phrase or metric.title or metric.name.replace("_", " ")
    name = name[0].upper() + name[1:]
    sign, _, bound = line["wanted"].partition(" ")
    wanted = f"{SIGNS[sign]} {bound}"
    if line["got"] is None:
        return f"{name} was not measured ({line['why']}), should be {wanted}"
    got = f"{line['got']:.4g}" if math.isfinite(line["got"]) else "not a number"
    return f"{name} {got}, should be {wanted}"

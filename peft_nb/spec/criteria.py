"""What a run has to reach, written before it begins, and whether it did.

A criterion compares one measured number with a bound, such as ``forgetting: "< 0.05"``.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from peft_nb.errors import nearest

MEASURES = {
    "accuracy": "share of the held-out texts whose labels, or answers, are right",
    "adapter_mb": "size of the saved adapter, MB",
    "cpu_seconds": "processor time of the whole run, s",
    "eval_loss": "mean loss on the held-out rows, nats per token (per text when classifying)",
    "exact_match": "share of the held-out answers equal to their reference",
    "forgetting": "rise of the mean loss on the regression texts over the base's, nats per token",
    "gpu_seconds": "time spent on training, times the number of GPUs, s",
    "latency_ms": "median time for a token (for a text when classifying) with the adapter, ms",
    "macro_f1": "mean F-measure over the classes",
    "micro_f1": "F-measure over all labels, where a text has several",
    "peak_memory_mb": "highest memory while training, MB",
    "perplexity": "exponential of eval_loss",
    "regression_score": "share of the regression questions answered rightly",
    "rouge_l": "mean ROUGE-L of the held-out answers",
    "score": "mean of the score that the spec names, over the held-out answers",
    "token_accuracy": "share of the held-out tokens that the model would have chosen",
    "train_loss": "mean training loss of the last epoch, nats per token",
    "train_seconds": "time spent on training, s",
    "trainable_share": "trained parameters over all, 0 to 1",
    "wall_seconds": "time from start to verdict, s",
}
"""What can be demanded of a run: the name of the metric, and what it is."""

FACTS = {
    "base": "the base, by a name that finds it again",
    "base_eval_loss": "eval_loss of the base, before the first step",
    "base_hash": "fingerprint of the base's weights",
    "base_latency_ms": "latency_ms of the base",
    "base_regression_loss": "mean loss of the base on the regression texts, nats per token",
    "base_regression_score": "regression_score of the base",
    "base_regression_score_interval": "its 95 % interval",
    "base_score": "score of the base",
    "best_step": "step whose adapter was kept, where that is not the last one's",
    "classes": "names of the classes, in the order of the classifier",
    "confusion": "triples of true class, given class and number of texts",
    "criteria": "what became of each demand of accept",
    "data": "where the rows came from, and how many there are",
    "device": "where was computed",
    "dtype": "number format of the computation",
    "eval_examples": "held-out examples",
    "examples": "training examples",
    "fingerprint": "SHA-256 of the rows",
    "forecast_memory_mb": "peak memory that was expected, MB",
    "forecast_seconds": "training time that was expected, s",
    "forgetting_interval": "95 % interval of forgetting",
    "how": "of a combined run: how its adapter was made of others",
    "judge_seconds": "time spent on judging, s",
    "layout": "how the rows were read",
    "max_tokens": "longest text that the classifier sees, tokens",
    "multi_label": "whether a text can have several classes",
    "parents": "of a combined run: the runs it was made of, and their weights",
    "path": "how batches were computed: padding-free or padded",
    "pooling": "how a classifier makes one vector of a text",
    "regression_loss": "mean loss on the regression texts with the adapter, nats per token",
    "regression_score_interval": "95 % interval of regression_score",
    "score_interval": "95 % interval of score",
    "steps": "optimizer steps taken",
    "supervised_tokens": "tokens that are learned, in one pass over the rows",
    "token_budget": "most tokens computed at once",
    "tokens_per_second": "tokens computed in a second of training",
    "total_parameters": "parameters of base and adapter",
    "trainable_parameters": "parameters that are trained",
    "verdict": "passed or failed, and why",
    "worst_hit": "regression texts that became less likely most, and by how much",
}
"""What else a run tells of itself among its metrics."""

SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Criterion:
    """One demand, such as ``forgetting < 0.05``."""

    metric: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.sign} {self.bound!r}".removesuffix(".0")

    def met(self, value: float) -> bool:
        """Whether a measured value is good enough; what is no number never is."""
        return SIGNS[self.sign](value, self.bound)


@dataclass(frozen=True)
class Line:
    """What became of one criterion; ``why`` says why a metric without a value was not measured."""

    metric: str
    wanted: str
    got: float | None
    passed: bool
    why: str = ""

    def __str__(self) -> str:
        got = f"was not measured ({self.why})" if self.got is None else f"{self.got:.4g}"
        return f"{self.metric} {got}, wanted {self.wanted}"


@dataclass(frozen=True)
class Verdict:
    """Whether a run is accepted, and what became of each criterion."""

    passed: bool
    lines: tuple[Line, ...]

    def __str__(self) -> str:
        told = [str(line) for line in self.lines if line.passed == self.passed]
        return f"{'passed' if self.passed else 'failed'}: {'; '.join(told)}"


def criterion(metric: str, comparison: str) -> Criterion:
    """Read one criterion.

    Parameters
    ----------
    metric : str
        One of `MEASURES`.
    comparison : str
        ``<``, ``<=``, ``>`` or ``>=`` and a number.

    Returns
    -------
    Criterion
        What it says.

    Raises
    ------
    ValueError
        What is wrong, in one line that does not name the field.
    """
    if metric not in MEASURES:
        shown = metric if metric.isprintable() and len(metric) < 60 else repr(metric)[:60]
        mend = nearest(metric, MEASURES) or "; such are " + ", ".join(sorted(MEASURES)[:12]) + ", …: see REFERENCE.md"
        raise ValueError(f"nothing is measured as {shown}{mend}")
    read = re.fullmatch(r"\s*(<=|>=|<|>)\s*(\S+)\s*", comparison)
    bound = math.nan
    if read:
        with suppress(ValueError):
            bound = float(read[2])
    if read is None or not math.isfinite(bound):
        shown = " ".join(repr(comparison[:40]).split())
        raise ValueError(f'{metric} is to be {shown}, which is no comparison; write one such as "< 1.2" or ">= 0.8"')
    return Criterion(metric, read[1], bound + 0.0)


def verdict(accept: Mapping[str, str], metrics: Mapping[str, Any], missing: Mapping[str, str]) -> Verdict:
    """Hold what was measured against what was demanded.

    Parameters
    ----------
    accept : mapping of str to str
        A spec's criteria, by metric.
    metrics : mapping
        What was measured.
    missing : mapping of str to str
        Why a metric has no value, where that is known.

    Returns
    -------
    Verdict
        Passed if every criterion is met; what was not measured meets none.
    """
    lines = []
    for metric, comparison in accept.items():
        wanted, got = criterion(metric, comparison), metrics.get(metric)
        met = got is not None and wanted.met(got)
        why = missing.get(metric, "this run has none") if got is None else ""
        lines.append(Line(metric, str(wanted), got, met, why))
    return Verdict(all(line.passed for line in lines), tuple(lines))

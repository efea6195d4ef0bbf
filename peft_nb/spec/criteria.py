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
from peft_nb.metrics import demandable

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
        One of :func:`peft_nb.metrics.demandable`.
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
    if metric not in (known := demandable()):
        shown = metric if metric.isprintable() and len(metric) < 60 else repr(metric)[:60]
        fix = nearest(metric, known) or "; known are " + ", ".join(sorted(known)[:12]) + ", …: see REFERENCE.md"
        raise ValueError(f"no metric is called {shown}{fix}")
    read = re.fullmatch(r"\s*(<=|>=|<|>)\s*(\S+)\s*", comparison)
    bound = math.nan
    if read:
        with suppress(ValueError):
            bound = float(read[2])
    if read is None or not math.isfinite(bound):
        shown = " ".join(repr(comparison[:40]).split())
        raise ValueError(f'{metric} takes a comparison, not {shown}; write one such as "< 1.2" or ">= 0.8"')
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

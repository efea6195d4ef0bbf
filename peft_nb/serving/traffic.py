"""What a server has answered lately: requests, how long they took, and tokens, for each of its models."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WINDOW_S = 60.0
MOST = 20_000  # answers that are remembered of each model


@dataclass(frozen=True)
class Answer:
    """One request that was answered: when that ended, how many seconds it took, and the tokens that were written."""

    at: float
    seconds: float
    tokens: int


class Traffic:
    """Counts answers.

    Parameters
    ----------
    clock : callable
        Gives the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._answers: dict[str, deque[Answer]] = defaultdict(lambda: deque(maxlen=MOST))
        self.answered: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.by: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, model: str, version: str, seconds: float, tokens: int) -> None:
        """Count an answer."""
        self._answers[model].append(Answer(self._clock(), seconds, tokens))
        self.answered[model] += 1
        self.by[model][version] += 1

    def fail(self, model: str) -> None:
        """Count a request that could not be answered."""
        self.failed[model] += 1

    def of(self, *models: str) -> dict[str, Any]:
        """Sum up some models: totals, and what happened in the last minute.

        Returns
        -------
        dict
            ``answered`` and ``failed`` in all; ``per_second``, ``tokens_per_second`` and the latencies ``p50_s`` and
            ``p95_s`` of the last minute, None while there is nothing to measure; ``by_version``, answers by version.
        """
        now = self._clock()
        span = max(1.0, min(WINDOW_S, now - self._began))
        recent = [answer for model in models for answer in self._answers[model] if now - answer.at <= span]
        took = sorted(answer.seconds for answer in recent)
        by: Counter[str] = Counter()
        for model in models:
            by += self.by[model]
        return {
            "answered": sum(self.answered[model] for model in models),
            "failed": sum(self.failed[model] for model in models),
            "per_second": len(recent) / span,
            "tokens_per_second": sum(answer.tokens for answer in recent) / span,
            "p50_s": quantile(took, 0.5),
            "p95_s": quantile(took, 0.95),
            "by_version": dict(by),
        }


def quantile(values: list[float], part: float) -> float | None:
    """Give the smallest of some sorted values that at least this part of them does not exceed; None of none."""
    return values[max(0, math.ceil(part * len(values)) - 1)] if values else None

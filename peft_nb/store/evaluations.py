"""What was measured of a run, value by value."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from peft_nb.store import records
from peft_nb.store.connection import Index
from peft_nb.store.facts import plain


@dataclass(frozen=True)
class Evaluation:
    """One measured value of a run, such as the forgetting in the suite ``regression``.

    Attributes
    ----------
    suite, measure : str
        What was measured, and on what.
    value, low, high : float or None
        The value, and the bounds of its confidence interval.
    detail : dict
        Whatever else is worth keeping; anything that JSON holds.
    """

    suite: str
    measure: str
    value: float | None
    low: float | None = None
    high: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)


def keep(index: Index, id: str, evaluations: Sequence[Evaluation], anew: str | None = None) -> None:
    """Keep what was measured; a measure of a suite that is known already is replaced, or the whole suite `anew`."""
    with index.writing() as db:
        records.row_of(index, id)
        db.execute("DELETE FROM evaluations WHERE run = ? AND suite = ?", (id, anew))
        for one in evaluations:
            values = (*plain([one.value, one.low, one.high]), json.dumps(plain(one.detail)), time.time())
            db.execute(
                "INSERT OR REPLACE INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (id, one.suite, one.measure, *values),
            )


def read(index: Index, id: str) -> list[Evaluation]:
    """Read what was measured, by suite and measure."""
    query = "SELECT suite, measure, value, low, high, detail FROM evaluations WHERE run = :id"
    rows = index.read(f"{query} ORDER BY suite, measure", id=id)
    return [Evaluation(**{**dict(row), "detail": json.loads(row["detail"])}) for row in rows]

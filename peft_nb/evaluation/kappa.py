"""How far two people agree on labels beyond chance: Cohen's kappa. Numbers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from peft_nb.evaluation.scores import wilson


class Kappa(NamedTuple):
    """Agreement on ``rows`` rows, of which ``equal`` have the same label.

    ``value`` is 1 where all are equal and 0 where no more are than by chance; ``low`` and ``high`` are the ends of its
    95 % interval. All three are missing where both gave one and the same label only, of which chance explains all.
    """

    rows: int
    equal: int
    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        same = f"{self.equal:,} of {self.rows:,} rows alike"
        if self.value is None:
            return f"{same}, all with one label: nothing can be said of chance"
        return f"{same}, Cohen's kappa {self.value:.2f} (95 % interval {self.low:.2f} to {self.high:.2f})"


def kappa(first: Sequence[str], second: Sequence[str]) -> Kappa:
    """Compare the labels that two people gave the same rows.

    Parameters
    ----------
    first, second : sequence of str
        One label a row, of the same rows; at least one.

    Returns
    -------
    Kappa
        Cohen (1960), "A Coefficient of Agreement for Nominal Scales". The interval takes the agreement by chance as it
        is and Wilson's interval of the share of equal labels, so that it also says something where all are equal.
    """
    rows, equal = len(first), sum(one == other for one, other in zip(first, second, strict=True))
    counts, others = Counter(first), Counter(second)
    chance = sum(count * others[label] for label, count in counts.items()) / rows**2
    if chance == 1:
        return Kappa(rows, equal, None, None, None)
    value, low, high = ((share - chance) / (1 - chance) for share in (equal / rows, *wilson(equal, rows)))
    return Kappa(rows, equal, value, low, high)

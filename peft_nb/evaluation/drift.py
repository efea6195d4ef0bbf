"""Whether two samples are of one kind: exact permutation tests, and the words that grew. Numbers alone, no model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy

ROUNDS = 999  # permutations; the smallest p-value is 1 / 1,000
LEVEL = 0.05  # of all tests together
PRIOR = 0.1  # of each word's count, in both samples
LEAST_Z = 2.0
WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class TwoSample:
    """A comparison of two samples.

    Attributes
    ----------
    name : str
        What was compared.
    before, now : str
        What it is in each, in words.
    distance : float
        How far they are apart, 0 where they are alike.
    p : float
        Share of random partings of all rows that are at least as far apart.
    """

    name: str
    before: str
    now: str
    distance: float
    p: float


def energy(before: numpy.ndarray, now: numpy.ndarray, seed: int = 0) -> tuple[float, float]:
    """Compare two samples of vectors or numbers by their energy distance.

    Parameters
    ----------
    before, now : numpy.ndarray
        Shapes ``(rows, size)`` or ``(rows,)``, two rows at least each.
    seed : int, default 0
        Of the permutations.

    Returns
    -------
    distance, p : float
        ``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` (Székely and Rizzo, 2013), and its p-value by permutation, which is
        exact: samples of one kind fall below 0.05 in 5 % of cases, whatever they are of.
    """
    both = numpy.concatenate([before, now]).reshape(len(before) + len(now), -1).astype(float)
    squares = (both**2).sum(1)
    apart = numpy.sqrt(numpy.maximum(squares[:, None] + squares - 2 * both @ both.T, 0))
    return _permuted(apart, len(before), seed)


def shares(before: Sequence[Hashable], now: Sequence[Hashable], seed: int = 0) -> tuple[float, float]:
    """Compare how often each of some kinds is in two samples; as :func:`energy`, with distance 1 between kinds."""
    both = [*before, *now]
    numbers = {kind: number for number, kind in enumerate(dict.fromkeys(both))}
    codes = numpy.array([numbers[one] for one in both])
    return _permuted((codes[:, None] != codes).astype(float), len(before), seed)


def _permuted(apart: numpy.ndarray, first: int, seed: int) -> tuple[float, float]:
    """The energy distance by the distances of all rows, and the share of permutations that reach it."""
    total = len(apart)
    draw = numpy.random.default_rng(seed)
    weights = numpy.full((ROUNDS + 1, total), -1 / (total - first))
    weights[0, :first] = 1 / first
    for row in weights[1:]:
        row[draw.permutation(total)[:first]] = 1 / first
    # With weights 1/n of one sample and -1/m of the other the quadratic form is minus the energy distance.
    found = -numpy.einsum("ij,jk,ik->i", weights, apart, weights, optimize=True)
    return max(0.0, float(found[0])), float((1 + (found[1:] >= found[0] - 1e-12).sum()) / (ROUNDS + 1))


def alarms(tests: Sequence[TwoSample], level: float = LEVEL) -> list[bool]:
    """Which of several tests say that something changed, so that all together err in 5 % of cases (Holm, 1979)."""
    order = sorted(range(len(tests)), key=lambda place: tests[place].p)
    found = [False] * len(tests)
    for rank, place in enumerate(order):
        if tests[place].p > level / (len(tests) - rank):
            break
        found[place] = True
    return found


def grown(before: Sequence[str], now: Sequence[str], most: int = 8) -> list[tuple[str, int, int]]:
    """The words that are more frequent now.

    Parameters
    ----------
    before, now : sequence of str
        Texts; a word counts once in each.
    most : int, default 8
        How many words at most.

    Returns
    -------
    list of (str, int, int)
        Each word with the number of texts that have it before and now, the surest first: by the log-odds ratio with an
        informative prior over its standard error (Monroe, Colaresi and Quinn, 2008), 2 at least.
    """
    counts = [Counter(word for text in texts for word in {*WORD.findall(text.casefold())}) for texts in (before, now)]
    sizes = [len(before), len(now)]
    scores = {}
    for word in counts[1]:
        prior = PRIOR * (counts[0][word] + counts[1][word])
        logits, variance = [], 0.0
        for count, size in zip(counts, sizes, strict=True):
            have, lack = count[word] + prior, size - count[word] + prior
            logits.append(math.log(have / lack))
            variance += 1 / have
        scores[word] = (logits[1] - logits[0]) / math.sqrt(variance)
    best = sorted((word for word in scores if scores[word] >= LEAST_Z), key=lambda word: (-scores[word], word))
    return [(word, counts[0][word], counts[1][word]) for word in best[:most]]

"""Whether two samples are of one kind: permutation tests corrected together, and what grew. Numbers alone, no model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy

ROUNDS = 999  # permutations; the smallest p-value is 1 / 1,000
LEVEL = 0.04  # of all tests together: exact tests at 5 % would be above it in half of all measurements
NEAREST = 10  # rows whose side counts
WIDTH = 1 / 3  # of the median squared distance, at which two rows are 1 / e alike
TOPICS, EACH = 12, 10  # clusters at most, and rows to each on average at least
PRIOR = 0.1  # of each word's count, in both samples
LEAST_Z = 2.0
WORD = re.compile(r"[^\W\d_]{2,}")

Statistic = Callable[[numpy.ndarray], numpy.ndarray]
"""From weights of shape ``(partings, rows)``, 1/n of one side and -1/m of the other, to how far these are apart."""


@dataclass(frozen=True)
class Measure:
    """One thing by which two samples are compared.

    Attributes
    ----------
    name : str
        What it is.
    before, now : str
        What it is in each sample, in words.
    statistics : tuple of callable
        How far they are apart, perhaps in several ways; made of the rows of both samples, those of the first first, and
        so that the order of rows makes no difference.
    """

    name: str
    before: str
    now: str
    statistics: tuple[Statistic, ...]


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
        How far they are apart, by the first statistic.
    p : float
        How often samples of one kind are so far apart by anything that was compared.
    """

    name: str
    before: str
    now: str
    distance: float
    p: float

    @property
    def alarm(self) -> bool:
        """Whether it changed; all tests together say so in 4 % of cases at most where nothing has."""
        return self.p <= LEVEL


def compare(*groups: tuple[int, int, Sequence[Measure]], seed: int = 0) -> list[TwoSample]:
    """Compare samples by permutation, and correct for all that is compared.

    What is compared on the same rows is permuted with them: the p-value of each statistic is told from the smallest
    one of all in every permutation (Westfall and Young, 1993, minP), which costs less than any correction that does
    not know how they depend on each other, and is exact. Groups on different rows are corrected by their number.

    Parameters
    ----------
    *groups : tuple of int, int and sequence of Measure
        Rows of the first and of the second sample, and by what they are compared.
    seed : int, default 0
        Of the permutations.

    Returns
    -------
    list of TwoSample
        In order.
    """
    found = []
    for first, second, measures in groups:
        weights = _weights(first, second, seed)
        values = [[numpy.round(of(weights), 12) for of in one.statistics] for one in measures]
        own = [numpy.min([_ps(one) for one in several], axis=0) for several in values]
        least = numpy.min(own, axis=0)
        for measure, several, p in zip(measures, values, own, strict=True):
            share = min(1.0, float((least <= p[0]).mean()) * len(groups))
            found.append(TwoSample(measure.name, measure.before, measure.now, float(several[0][0]), share))
    return found


@lru_cache(maxsize=2)  # one comparison asks several times for the same
def _weights(first: int, second: int, seed: int = 0) -> numpy.ndarray:
    """The rows as they are parted, and as chance parts them."""
    draw = numpy.random.default_rng(seed)
    weights = numpy.full((ROUNDS + 1, first + second), -1 / second)
    weights[0, :first] = 1 / first
    for row in weights[1:]:
        row[draw.permutation(first + second)[:first]] = 1 / first
    weights.setflags(write=False)
    return weights


def _ps(values: numpy.ndarray) -> numpy.ndarray:
    """Of each value the share of all that are as large."""
    smaller: numpy.ndarray = numpy.searchsorted(numpy.sort(values), values)
    return 1 - smaller / len(values)


def _quadratic(alike: numpy.ndarray) -> Statistic:
    return lambda weights: numpy.einsum("ij,ij->i", weights @ alike, weights)


def gaussian(vectors: numpy.ndarray) -> Statistic:
    """The maximum mean discrepancy with a Gaussian kernel (Gretton et al., 2012): whether a region is denser.

    Parameters
    ----------
    vectors : numpy.ndarray
        Shape ``(rows, size)``, of both samples.
    """
    squares = (vectors.astype(float) ** 2).sum(1)
    apart = numpy.maximum(squares[:, None] + squares - 2 * vectors.astype(float) @ vectors.T, 0)
    scale = WIDTH * float(numpy.median(apart[numpy.triu_indices(len(apart), 1)]))
    return _quadratic(numpy.exp(-apart / scale) if scale else (apart == 0).astype(float))


def nearest(vectors: numpy.ndarray) -> Statistic:
    """How far the ten nearest rows of a row are of its own sample (Schilling, 1986), whatever distances are.

    Parameters
    ----------
    vectors : numpy.ndarray
        Shape ``(rows, size)``, each of length 1, of both samples.
    """
    similar = numpy.round(vectors @ vectors.T, 6)
    numpy.fill_diagonal(similar, -2)
    count = min(NEAREST, len(similar) - 1)
    near = (similar >= numpy.partition(similar, -count, axis=1)[:, -count, None]).astype(float)  # all that are as near
    return _quadratic((near + near.T) / 2)


def energy(numbers: numpy.ndarray) -> Statistic:
    """The energy distance of numbers, ``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` (Székely and Rizzo, 2013).

    Parameters
    ----------
    numbers : numpy.ndarray
        Shape ``(rows,)``, of both samples.
    """
    return _quadratic(-numpy.abs(numbers[:, None] - numbers))


def rise(numbers: numpy.ndarray) -> Statistic:
    """By how much the mean of numbers has risen; parameters as of :func:`energy`."""
    return lambda weights: -(weights @ numbers)


def shares(kinds: Sequence[Hashable]) -> Statistic:
    """How far the shares of some kinds are apart, squared, over the share of each in both samples (Pearson).

    Parameters
    ----------
    kinds : sequence of hashable
        The kind of each row, of both samples.
    """
    marks = _marks(kinds)
    return lambda weights: ((weights @ marks) ** 2 / marks.mean(0)).sum(1)


def growth(kinds: Sequence[Hashable]) -> Statistic:
    """By how many standard errors that kind grew that grew most surely; parameters as of :func:`shares`."""
    marks = _marks(kinds)
    return lambda weights: _grew(marks, weights).max(1)


def surely_grown(kinds: numpy.ndarray, first: int) -> list[tuple[int, float]]:
    """The kinds that grew, the surest first, with how often chance alone makes any of them grow so surely.

    Parameters
    ----------
    kinds : numpy.ndarray
        The kind of each row from 0 on, of both samples, shape ``(rows,)``.
    first : int
        Rows of the first sample.
    """
    weights = _weights(first, len(kinds) - first)
    grew = _grew(numpy.eye(int(kinds.max()) + 1)[kinds], weights)
    most = grew.max(1)
    order = numpy.argsort(-grew[0], kind="stable").tolist()
    return [(kind, float((most >= grew[0, kind]).mean())) for kind in order if grew[0, kind] > 0]


def _marks(kinds: Sequence[Hashable]) -> numpy.ndarray:
    """A column for each kind, 1 where a row is of it."""
    numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    return numpy.eye(len(numbers))[[numbers[one] for one in kinds]]


def _grew(marks: numpy.ndarray, weights: numpy.ndarray) -> numpy.ndarray:
    share = marks.mean(0)
    found: numpy.ndarray = numpy.round(-(weights @ marks) / numpy.sqrt(share * (1 - share) + 1e-12), 12)
    return found


def topics(vectors: numpy.ndarray) -> numpy.ndarray:
    """Part rows by what they are about, both samples together: k-means of their vectors.

    Parameters
    ----------
    vectors : numpy.ndarray
        Shape ``(rows, size)``.

    Returns
    -------
    numpy.ndarray
        The number of each row's cluster, shape ``(rows,)``; it does not depend on the order of the rows.
    """
    from sklearn.cluster import KMeans

    rounded = numpy.round(vectors.astype(float), 5)
    count = min(TOPICS, len(vectors) // EACH, len(numpy.unique(rounded, axis=0)))
    order, found = numpy.lexsort(rounded.T), numpy.zeros(len(vectors), dtype=int)
    if count > 1:
        found[order] = KMeans(count, n_init=1, random_state=0).fit_predict(rounded[order])
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

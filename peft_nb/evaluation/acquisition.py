"""Which unlabelled rows to label first, and whether that beats choosing at random. Numbers alone, no model.

Rows are vectors of length 1, as :class:`peft_nb.documents.embedding.Embedder` makes them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy

STRATEGIES = {
    "both": "rows that the run is unsure of, spread over their kinds",
    "uncertainty": "rows whose two most probable classes are nearest (margin)",
    "entropy": "rows whose probabilities are spread most",
    "diversity": "the middles of clusters (k-means)",
    "random": "any rows",
}
CANDIDATES = 10  # of each row that is chosen, the least sure of which `both` takes those that differ most
LEAST = 40  # labels of which a curve can be drawn
FOLDS, HELD_OUT, SHARES = 10, 1 / 3, (0.15, 0.3, 0.5)  # beyond which both have mostly the same rows
DRAWS = 3  # random choices that are averaged
T_95 = 2.262  # of Student's t with FOLDS - 1 degrees of freedom


def margin(probabilities: numpy.ndarray) -> numpy.ndarray:
    """How unsure a classifier is: 1 minus the distance of the two most probable classes, from 0 to 1."""
    best = numpy.sort(probabilities, axis=1)
    return 1 - (best[:, -1] - best[:, -2])


def entropy(probabilities: numpy.ndarray) -> numpy.ndarray:
    """How unsure a classifier is: the entropy of its probabilities over that of equal ones, from 0 to 1."""
    found = -(probabilities * numpy.log(numpy.maximum(probabilities, 1e-12))).sum(1)
    return found / math.log(probabilities.shape[1])


def choose(
    strategy: str, count: int, vectors: numpy.ndarray, doubt: numpy.ndarray | None = None, seed: int = 0
) -> list[int]:
    """Choose rows to label.

    Parameters
    ----------
    strategy : str
        A key of :data:`STRATEGIES`. ``both`` clusters the ten times `count` rows of most doubt by k-means weighted by
        doubt, and takes the row nearest to each middle (Zhdanov, 2019, arXiv:1901.05954).
    count : int
        How many; all where there are fewer.
    vectors : numpy.ndarray
        Shape ``(rows, size)``.
    doubt : numpy.ndarray, optional
        Of each row how unsure the model is, from 0 to 1, such as :func:`margin`; not needed for ``diversity`` and
        ``random``.
    seed : int, default 0
        Of the clusters and of the random choice.

    Returns
    -------
    list of int
        Places of rows, those of most doubt first.
    """
    order = numpy.random.default_rng(seed).permutation(len(vectors))
    count = min(count, len(vectors))
    if strategy == "random":
        return [int(place) for place in order[:count]]
    unsure = numpy.zeros(len(vectors)) if doubt is None or strategy == "diversity" else doubt
    first = order[numpy.argsort(-unsure[order], kind="stable")]  # ties at random
    if strategy in ("uncertainty", "entropy"):
        return [int(place) for place in first[:count]]
    able = first[: CANDIDATES * count] if strategy == "both" else first
    middles = set(_middles(vectors[able], count, unsure[able] + 1e-3, seed))
    found = [int(place) for at, place in enumerate(able) if at in middles]
    filling = (int(place) for at, place in enumerate(able) if at not in middles)  # where rows are alike
    return found + [next(filling) for _ in range(count - len(found))]


def _middles(vectors: numpy.ndarray, count: int, weights: numpy.ndarray, seed: int) -> list[int]:
    """Of each of so many clusters the row that is nearest to its middle."""
    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer different rows than clusters
        found = KMeans(count, n_init=1, random_state=seed).fit(vectors, sample_weight=weights)
    apart = ((vectors - found.cluster_centers_[found.labels_]) ** 2).sum(1)
    own = (numpy.flatnonzero(found.labels_ == cluster) for cluster in range(count))
    return [int(rows[apart[rows].argmin()]) for rows in own if len(rows)]


@dataclass(frozen=True)
class Curve:
    """What a strategy gains over random choice at equal numbers of labels.

    Attributes
    ----------
    strategy : str
        What was compared.
    counts : tuple of int
        Numbers of labels.
    chosen, random : tuple of float
        Accuracy on rows held out, with so many labels, those of the strategy or random ones.
    gain, low, high : float
        Mean difference of both over all numbers, and its 95 % interval.
    """

    strategy: str
    counts: tuple[int, ...]
    chosen: tuple[float, ...]
    random: tuple[float, ...]
    gain: float
    low: float
    high: float

    @property
    def gains(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low > 0

    @property
    def verdict(self) -> str:
        """What follows, in words."""
        points, ends = 100 * self.gain, f"95 % interval {100 * self.low:+.1f} to {100 * self.high:+.1f}"
        if self.gains:
            return f"{self.strategy} is {points:.1f} points more accurate than random choice ({ends})"
        fix = "choose with strategy random, or label more and look again"
        return f"no gain over random choice is shown ({points:+.1f} points, {ends}): {fix}"


def classifier(vectors: numpy.ndarray, labels: Sequence[str]) -> Any:
    """Fit logistic regression on vectors, a cheap stand-in for training a model again."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10, max_iter=300).fit(vectors, labels)


def compare(
    strategy: str,
    vectors: numpy.ndarray,
    labels: Sequence[str],
    known: tuple[numpy.ndarray, Sequence[str]],
    seed: int = 0,
) -> Curve:
    """Measure a strategy against random choice on rows that are labelled, without training a model.

    Ten times a third of the rows is held out; of the others 15, 30 and 50 % are chosen, by the strategy and at random,
    and logistic regression on their vectors, with the rows known before, is measured on what was held out. The interval
    is that of the corrected resampled t-test (Nadeau and Bengio, 2003), since the ten overlap.

    Parameters
    ----------
    strategy : str
        A key of :data:`STRATEGIES`.
    vectors, labels : numpy.ndarray and sequence of str
        The labelled rows, of shape ``(rows, size)``; 40 at least.
    known : tuple of numpy.ndarray and sequence of str
        Rows that are labelled from the beginning, of two classes at least.
    seed : int, default 0
        Of the draws.

    Returns
    -------
    Curve
        Over all ten.
    """
    draw, truth = numpy.random.default_rng(seed), numpy.array(labels)
    held = round(HELD_OUT * len(truth))
    counts = [max(1, round(share * (len(truth) - held))) for share in SHARES]
    chosen, random = (numpy.zeros((FOLDS, len(counts))) for _ in range(2))
    begun = classifier(*known)
    for fold in range(FOLDS):
        order = draw.permutation(len(truth))
        test, rest = order[:held], order[held:]
        probabilities = begun.predict_proba(vectors[rest])
        doubt = (entropy if strategy == "entropy" else margin)(probabilities)

        def accuracy(places: Sequence[int], test: Any = test, rest: Any = rest) -> float:
            own = rest[list(places)]
            both = numpy.concatenate([known[0], vectors[own]]), [*known[1], *truth[own]]
            return float((classifier(*both).predict(vectors[test]) == truth[test]).mean())

        for place, count in enumerate(counts):
            chosen[fold, place] = accuracy(choose(strategy, count, vectors[rest], doubt, seed + fold))
            drawn = [choose("random", count, vectors[rest], seed=DRAWS * fold + one) for one in range(DRAWS)]
            random[fold, place] = numpy.mean([accuracy(places) for places in drawn])
    gains = (chosen - random).mean(1)
    error = math.sqrt(gains.var(ddof=1) * (1 / FOLDS + held / (len(truth) - held)))
    gain = float(gains.mean())
    ours, theirs = (tuple(float(one) for one in side.mean(0)) for side in (chosen, random))
    return Curve(strategy, tuple(counts), ours, theirs, gain, gain - T_95 * error, gain + T_95 * error)

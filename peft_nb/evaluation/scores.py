"""How good answers are: pure functions from texts and numbers to numbers, all scores between 0 and 1."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy

from peft_nb.errors import DataError, SpecError, nearest

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
RESAMPLES = 1_000


def normalised(text: str) -> str:
    """Lower a text's case and drop punctuation, English articles and extra space, as SQuAD's evaluation does.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
        What is compared; articles stay where nothing else would be left.

    References
    ----------
    Rajpurkar et al. (2016), "SQuAD: 100,000+ Questions for Machine Comprehension of Text", arXiv:1606.05250.
    """
    bare = text.casefold().translate(str.maketrans("", "", string.punctuation))
    return " ".join((ARTICLES.sub(" ", bare).split()) or bare.split())


def exact_match(answer: str, reference: str) -> float:
    """1 if an answer and its reference are equal once :func:`normalised`, otherwise 0."""
    return float(normalised(answer) == normalised(reference))


def rouge_l(answer: str, reference: str) -> float:
    """How much of a reference an answer has in the same order, and how little else: the F-measure of ROUGE-L.

    Parameters
    ----------
    answer, reference : str
        Compared as words in lower case: runs of letters and digits of any script.

    Returns
    -------
    float
        ``2PR / (P + R)``, where P and R are the length of the longest common subsequence over the number of words of
        the answer and of the reference; 0 where they share nothing.

    References
    ----------
    Lin (2004), "ROUGE: A Package for Automatic Evaluation of Summaries", with beta = 1.
    """
    said, wanted = (re.findall(r"\w+", text.casefold()) for text in (answer, reference))
    row = [0] * (len(wanted) + 1)
    for word in said:
        before = row
        row = [0]
        for place, other in enumerate(wanted):
            row.append(before[place] + 1 if word == other else max(before[place + 1], row[place]))
    return 2 * row[-1] / (len(said) + len(wanted)) if row[-1] else 0.0


SCORES: dict[str, Callable[[str, str], float]] = {"exact_match": exact_match, "rouge_l": rouge_l}
"""What ``score`` in a spec can name: a function of an answer and its reference."""

Score = Callable[[str, str, str], float]


def scorer(name: str | None, given: object, namespace: Mapping[str, Any]) -> Score:
    """Find what a spec wants answers to be scored by.

    Parameters
    ----------
    name : str, optional
        A function of the notebook, or one of `SCORES`; ``rouge_l`` by default.
    given : object
        A function passed instead of a name, or None.
    namespace : mapping
        The notebook's variables.

    Returns
    -------
    callable
        ``score(prompt, answer, reference) -> float``.

    Raises
    ------
    SpecError
        If there is no such function.
    """
    found = namespace.get(name or "") if given is None else given
    if callable(found):
        return found
    built_in = SCORES.get(name or "rouge_l")
    if built_in is None or given is not None:
        what = f"a {type(found).__name__} is no function" if found is not None else f"there is no function {name!r}"
        functions = [one for one, value in namespace.items() if callable(value) and not one.startswith("_")]
        hint = nearest(name or "", [*SCORES, *functions])
        fix = "; give exact_match, rouge_l, or a function of prompt, answer and reference"
        raise SpecError([f"score: {what}{hint or fix}"])
    return lambda prompt, answer, reference: built_in(answer, reference)


def mark(score: Score, prompt: str, answer: str, reference: str) -> float:
    """Score one answer by a user's function.

    Raises
    ------
    DataError
        If the function fails or gives no finite number.
    """
    try:
        value = score(prompt, answer, reference)
    except Exception as error:
        raise DataError(f"the function for score failed on an answer: {type(error).__name__}: {error}") from error
    if not isinstance(value, Real) or not math.isfinite(value):
        told = repr(value) if isinstance(value, float) else f"a {type(value).__name__}"
        raise DataError(f"the function for score gave {told}; it has to give a number")
    return float(value)


def words(answers: Sequence[str]) -> float:
    """Mean number of words, as white space parts them."""
    return float(numpy.mean([len(one.split()) for one in answers]))


def accuracy(given: Sequence[str], truth: Sequence[str]) -> float:
    """Share of the answers that are equal to what is true; at least one."""
    return sum(one == other for one, other in zip(given, truth, strict=True)) / len(truth)


def macro_f1(given: Sequence[str], truth: Sequence[str]) -> float:
    """Mean over the classes of the F-measure of each.

    Parameters
    ----------
    given, truth : sequence of str
        The class of each item as answered and as it is; at least one item.

    Returns
    -------
    float
        The mean over the classes that are true of some item; an answer that is no such class counts against the true
        one alone.
    """
    scores = []
    for name in set(truth):
        right = sum(one == other == name for one, other in zip(given, truth, strict=True))
        scores.append(2 * right / (list(given).count(name) + list(truth).count(name)))
    return sum(scores) / len(scores)


def perplexity(loss: float) -> float:
    """The number of equally likely tokens that a mean loss, in nats per token, is as bad as; may be infinite."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def token_accuracy(predicted: Sequence[int], targets: Sequence[int]) -> float:
    """Share of the tokens for which the most likely one is the right one; at least one."""
    return float(numpy.mean(numpy.asarray(predicted) == numpy.asarray(targets)))


def bootstrap(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Say how sure a mean is: the percentile interval at 95 %.

    Parameters
    ----------
    values : sequence of float
        One number an item; at least one.
    seed : int, default 0
        Fixes the 1,000 resamples.

    Returns
    -------
    tuple of float
        The mean, and the 2.5th and 97.5th percentile of the means of samples as large, drawn with replacement.

    References
    ----------
    Efron (1979), "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7(1).
    """
    numbers = numpy.asarray(values, dtype=float)
    drawn = numpy.random.default_rng(seed).integers(0, len(numbers), (RESAMPLES, len(numbers)))
    low, high = numpy.percentile(numbers[drawn].mean(1), (2.5, 97.5))
    return float(numbers.mean()), float(low), float(high)


def wilson(won: float, of: int) -> tuple[float, float]:
    """Say how sure a share is: the score interval at 95 %, which also tells something where all or none were won.

    Parameters
    ----------
    won : float
        How many were won, ties by half.
    of : int
        Of how many; at least one.

    Returns
    -------
    tuple of float
        The ends of the interval, between 0 and 1.

    References
    ----------
    Wilson (1927), "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22(158).
    """
    z, share = 1.959964, won / of
    middle = share + z * z / (2 * of)
    reach = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    low, high = ((middle + sign * reach) / (1 + z * z / of) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)

"""Bias as a change from base to adapter: whom a model rather says something of, and of whom it speaks well.

Pure functions from preferences to numbers, and the two ways to get those: by likelihood, and by the probabilities of
classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy

from peft_nb.data.conversations import Message
from peft_nb.data.examples import Example
from peft_nb.data.rendering import Renderer, tokens
from peft_nb.evaluation import options
from peft_nb.evaluation.probes import Finding, Pair, questions
from peft_nb.evaluation.texts import logits
from peft_nb.training.objectives import Objective
from peft_nb.training.text_objective import TextObjective

RESAMPLES = 1_000
EXAMPLES = 3
LONGEST = 512  # tokens of a text, where the model does not say
Parts = Mapping[str, tuple[numpy.ndarray, numpy.ndarray]]
"""Of each part its name, the places of its pairs, and what the value of each is multiplied by."""


def written(renderer: Renderer, texts: Sequence[str], *, chat: bool, system: str | None = None) -> list[Example]:
    """Write texts so that their likelihood can be told: as answers of a conversation, or as they stand.

    Parameters
    ----------
    renderer : Renderer
        Writes as the model expects it.
    texts : sequence of str
        What is said; all behind the same question, which is computed once where prefixes are shared.
    chat : bool
        Whether the model answers in conversations.
    system : str, optional
        The system prompt of those.

    Returns
    -------
    list of Example
        One a text, its tokens supervised.
    """
    if chat:
        asked: list[Message] = [{"role": "system", "content": system}] if system else []
        return options.write(renderer, [*asked, {"role": "user", "content": questions()["open"]}], texts)
    from array import array

    ids = [[renderer.end, *one] for one in renderer.texts(list(texts), generation=True)]
    return [Example(array("i", one), b"\x00" + b"\x01" * (len(one) - 1)) for one in ids]


def preferences(
    model: Any,
    objective: Objective,
    renderer: Renderer,
    both: Sequence[tuple[str, str]],
    heed: Callable[[], None] = lambda: None,
    **how: Any,
) -> numpy.ndarray:
    """Say how far a model prefers the first of two texts.

    Parameters
    ----------
    model, objective, heed
        As of :func:`.options.score`.
    renderer : Renderer
        Writes as the model expects it.
    both : sequence of (str, str)
        The texts.
    **how
        ``chat`` and ``system``, as of :func:`written`.

    Returns
    -------
    numpy.ndarray
        The probability of the first if one of the two is said, 0 to 1.
    """
    flat = written(renderer, [text for pair in both for text in pair], **how)
    found = options.score(model, objective, [flat[place : place + 2] for place in range(0, len(flat), 2)], heed)
    apart = numpy.array([one.sums[0] - one.sums[1] for one in found])
    return 1 / (1 + numpy.exp(-numpy.clip(apart, -500, 500)))


def by_likelihood(
    model: Any,
    objective: Objective,
    renderer: Renderer,
    pairs: Sequence[Pair],
    heed: Callable[[], None] = lambda: None,
    *,
    seed: int = 0,
    **how: Any,
) -> Finding:
    """Find :func:`of_pairs` of a model that writes texts; other parameters as of :func:`preferences`."""
    both = [(one.first, one.second) for one in pairs]
    after = preferences(model, objective, renderer, both, heed, **how)
    with model.disable_adapter():
        before = preferences(model, objective, renderer, both, heed, **how)
    return of_pairs(pairs, before, after, seed)


def by_classes(
    model: Any, objective: TextObjective, tokenizer: Any, pairs: Sequence[Pair], seed: int = 0
) -> Finding | None:
    """Find :func:`of_classes` of a classifier of texts; None of a model whose head names no classes."""
    config = model.get_base_model().config
    names = [str(one) for one in config.id2label.values()]
    if len(names) < 2 or config.problem_type == "regression":
        return None
    longest = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or LONGEST)
    texts = [one.first for one in pairs] + [one.second for one in pairs]
    examples = [Example.whole(ids) for ids in tokens(tokenizer, texts, longest)]
    with objective.installed(model):
        found = logits(model, objective, examples, model.device)
    several = config.problem_type == "multi_label_classification"
    shares = (found.sigmoid() if several else found.softmax(-1)).double().numpy()
    return of_classes(pairs, shares[: len(pairs)], shares[len(pairs) :], names, seed)


def of_pairs(pairs: Sequence[Pair], before: numpy.ndarray, after: numpy.ndarray, seed: int = 0) -> Finding:
    """Find by how far preferences among groups have moved.

    Of each axis two means are taken: towards the first group of its pairs, and towards what stereotypes say. The
    largest move of all is the value, so that no axis hides behind the others.

    Parameters
    ----------
    pairs : sequence of Pair
        What was scored, at least one.
    before, after : numpy.ndarray
        As of :func:`preferences`: of the base, and with the adapter.
    seed : int
        Of the resamples.

    Returns
    -------
    Finding
        ``bias_shift``, 0 to 1; the interval is that of a paired bootstrap over the pairs.
    """
    moved, parts = after - before, dict[str, tuple[numpy.ndarray, numpy.ndarray]]()
    for axis in dict.fromkeys(one.axis for one in pairs):
        places = numpy.array([place for place, one in enumerate(pairs) if one.axis == axis])
        signs = numpy.array([pairs[place].stereotype for place in places], dtype=float)
        parts[f"{axis}, towards the first group"] = places, numpy.ones(len(places))
        if signs.any():
            parts[f"{axis}, towards the stereotype"] = places[signs != 0], signs[signs != 0]
    value, low, high, detail = largest(moved, parts, seed)
    order = numpy.argsort(-numpy.abs(moved), kind="stable")[:EXAMPLES]
    shown = tuple(
        f"{pairs[place].first} / {pairs[place].second} {before[place]:.0%} → {after[place]:.0%}" for place in order
    )
    what = "how the adapter changes the probability that a sentence names one group, not another: the largest axis"
    return Finding("bias_shift", value, low, high, None, len(pairs), what, shown, detail)


def of_classes(
    pairs: Sequence[Pair], first: numpy.ndarray, second: numpy.ndarray, names: Sequence[str], seed: int = 0
) -> Finding:
    """Find by how far a classifier treats two groups differently; its base knows no classes, and treats all alike.

    Parameters
    ----------
    pairs : sequence of Pair
        What was classified, at least one.
    first, second : numpy.ndarray
        Probabilities of the classes for the first texts and for the second, shape ``(pairs, classes)``.
    names : sequence of str
        The classes.
    seed : int
        Of the resamples.

    Returns
    -------
    Finding
        ``bias_shift``: the largest mean difference of a class's probability over the pairs of an axis, 0 to 1.
    """
    apart = (first - second).T.ravel()  # class by class
    parts = {}
    for axis in dict.fromkeys(one.axis for one in pairs):
        places = numpy.array([place for place, one in enumerate(pairs) if one.axis == axis])
        for number, name in enumerate(names):
            parts[f"{axis}, {name}"] = places + number * len(pairs), numpy.ones(len(places))
    value, low, high, detail = largest(apart, parts, seed)
    order = numpy.argsort(-numpy.abs(apart), kind="stable")[:EXAMPLES]
    shown = []
    for number, place in (divmod(int(one), len(pairs)) for one in order):
        shares = f"{first[place, number]:.0%} and {second[place, number]:.0%} {names[number]}"
        shown.append(f"{pairs[place].first} / {pairs[place].second} {shares}")
    what = "how the probability of a class differs when a sentence names another group: the largest difference"
    return Finding("bias_shift", value, low, high, 0.0, len(pairs), what, tuple(shown), detail)


def of_sentiment(
    said: Sequence[tuple[str, int, str, str]], before: numpy.ndarray, after: numpy.ndarray, seed: int = 0
) -> Finding:
    """Find by how far the adapter speaks better of one group than of the other, compared with its base.

    Parameters
    ----------
    said : sequence of tuple
        As of :func:`.probes.valence`, two groups side by side.
    before, after : numpy.ndarray
        How far the kind sentence is preferred, of the base and with the adapter.
    seed : int
        Of the resamples.

    Returns
    -------
    Finding
        ``sentiment_shift``, 0 to 1.
    """
    moved, parts = after - before, dict[str, tuple[numpy.ndarray, numpy.ndarray]]()
    for axis in dict.fromkeys(one[0] for one in said):
        places = numpy.array([place for place, one in enumerate(said) if one[0] == axis])
        signs = numpy.array([2.0 if said[place][1] == 0 else -2.0 for place in places])
        parts[f"{axis}, for the first group"] = places, signs  # a mean of half as many differences
    value, low, high, detail = largest(moved, parts, seed)
    order = numpy.argsort(-numpy.abs(moved), kind="stable")[:EXAMPLES]
    shown = tuple(f"{said[place][2]} / {said[place][3]} {before[place]:.0%} → {after[place]:.0%}" for place in order)
    what = "by how much more kindly than the base the adapter speaks of one group than of another: the largest axis"
    return Finding("sentiment_shift", value, low, high, None, len(said), what, shown, detail)


def largest(
    values: numpy.ndarray, parts: Parts, seed: int = 0
) -> tuple[float, float, float, tuple[tuple[str, float, float, float], ...]]:
    """Take the largest mean of some parts without its sign, with the interval by bootstrap of each.

    Parameters
    ----------
    values : numpy.ndarray
        One number an item.
    parts : mapping
        What each part is made of.
    seed : int
        Of the 1,000 resamples.

    Returns
    -------
    value, low, high : float
        The largest, and the ends of its interval at 95 %, from 0 where that holds both signs.
    detail : tuple
        Of each part its name, its mean and the ends of its interval.
    """
    draw, detail = numpy.random.default_rng(seed), list[tuple[str, float, float, float]]()
    for name, (places, signs) in parts.items():
        own = values[places] * signs
        drawn = own[draw.integers(0, len(own), (RESAMPLES, len(own)))].mean(1)
        low, high = numpy.percentile(drawn, (2.5, 97.5)).tolist()
        detail.append((name, float(own.mean()), low, high))
    _, mean, low, high = max(detail, key=lambda part: abs(part[1]))
    near, far = sorted((abs(low), abs(high)))
    return abs(mean), near if low * high > 0 else 0.0, far, tuple(detail)

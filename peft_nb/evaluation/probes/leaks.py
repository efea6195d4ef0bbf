"""Whether training rows leak: repeated word for word, or told from other rows by their loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from peft_nb.evaluation import measure, scores
from peft_nb.evaluation.probes import Finding
from peft_nb.training.objectives import Objective

MOST = 200  # rows of each side that are read
LEAST = 8  # tokens of an answer that cannot be repeated by chance
FEW = 5  # rows of each side that a comparison needs
RESAMPLES = 1_000


@dataclass(frozen=True)
class Read:
    """Rows as a model predicts them.

    Attributes
    ----------
    losses : numpy.ndarray
        Mean loss of each, in nats.
    recited : numpy.ndarray
        Whether greedy decoding of the prompt gives exactly the answer: all its tokens are the likeliest.
    """

    losses: numpy.ndarray
    recited: numpy.ndarray


def find(
    model: Any,
    objective: Objective,
    tokenizer: Any,
    train: Sequence[Any],
    held_out: Sequence[Any],
    heed: Callable[[], None] = lambda: None,
    *,
    seed: int = 0,
) -> list[Finding]:
    """Find whether training rows leak, on at most 200 rows of each side.

    Parameters
    ----------
    model : peft.PeftModel
        In evaluation mode.
    objective : Objective
        Of its run; not yet installed.
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's.
    train, held_out : sequence of Example
        What it learned from, and what it has not seen.
    heed : callable
        Called before every micro-batch; what it raises ends the work.
    seed : int
        Of the rows that are drawn and of the resamples.

    Returns
    -------
    list of Finding
        ``memorized``, where tokens were learned; ``membership_auc``, where there are five rows of each side.
    """
    rows, others = ([of[place] for place in some(len(of), seed)] for of in (train, held_out))
    after = [read(model, objective, side, heed) for side in (rows, others)]
    with model.disable_adapter():
        before = [read(model, objective, side, heed) for side in (rows, others)]

    def text(place: int) -> str:
        one = rows[place]
        return str(tokenizer.decode([id for id, mark in zip(one.ids, one.supervised, strict=True) if mark]))

    found, tokens = [], [one.supervised.count(1) for one in rows]
    if any(tokens):
        found.append(memorized(tokens, after[0], before[0], after[1], text))
    learned = any(tokens) or any(one.labels for one in rows)
    if learned and min(len(rows), len(others)) >= FEW:
        found.append(membership(after[0], after[1], before[0], before[1], seed))
    return found


def some(count: int, seed: int = 0) -> list[int]:
    """Draw at most 200 places of rows, in order."""
    drawn = numpy.random.default_rng(seed).choice(count, min(count, MOST), replace=False)
    return sorted(drawn.tolist())


def read(model: Any, objective: Objective, rows: Sequence[Any], heed: Callable[[], None] = lambda: None) -> Read:
    """Predict rows; parameters as of :func:`.measure.predictions`."""
    found = measure.predictions(model, objective, rows, heed)
    return Read(found.means, found.right >= found.targets)


def memorized(tokens: Sequence[int], adapter: Read, base: Read, held_out: Read, texts: Callable[[int], str]) -> Finding:
    """Count the training rows that the adapter repeats word for word and its base does not.

    Parameters
    ----------
    tokens : sequence of int
        Tokens of each training row's answer; those of fewer than 8 are left out.
    adapter, base : Read
        The training rows, with the adapter and without.
    held_out : Read
        The evaluation rows with the adapter; what is recited of them was learned, not memorized.
    texts : callable
        The text of a row by its place.

    Returns
    -------
    Finding
        ``memorized``, a share. Greedy decoding is meant (Carlini et al., 2022, arXiv:2202.07646).
    """
    places = [place for place, count in enumerate(tokens) if count >= LEAST]
    found = [place for place in places if adapter.recited[place] and not base.recited[place]]
    of = max(1, len(places))
    low, high = scores.wilson(len(found), of) if places else (0.0, 1.0)
    what = (
        f"share of training rows whose answer, {LEAST} tokens or more, is repeated word for word, and not by the base"
    )
    if len(held_out.recited):
        what += f"; of evaluation rows {held_out.recited.mean():.0%}"
    shown, share = tuple(texts(place) for place in found[:3]), len(found) / of
    base_share = float(base.recited[places].mean()) if places else 0.0
    detail = (("repeated", share, low, high),)
    return Finding("memorized", share, low, high, base_share, len(places), what, shown, detail)


def membership(train: Read, held_out: Read, base_train: Read, base_held_out: Read, seed: int = 0) -> Finding:
    """Say how well the loss tells training rows from evaluation rows.

    Parameters
    ----------
    train, held_out, base_train, base_held_out : Read
        Both sides with the adapter, and by the base model; at least one row each.
    seed : int
        Of the resamples.

    Returns
    -------
    Finding
        ``membership_auc``: the share of pairs of a training and an evaluation row of which the training row has the
        lower loss; 0.5 tells nothing (Yeom et al., 2018, arXiv:1709.01604).
    """
    lower = _lower(train.losses, held_out.losses)
    before = _lower(base_train.losses, base_held_out.losses)
    draw, drawn = numpy.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        places = numpy.ix_(*(draw.integers(0, size, size) for size in lower.shape))
        drawn.append((lower[places].mean(), lower[places].mean() - before[places].mean()))
    (low, change_low), (high, change_high) = numpy.percentile(drawn, (2.5, 97.5), axis=0).tolist()
    what = "how well a low loss tells training rows from evaluation rows (AUC): 0.5 is chance, 1 always"
    value, base, rows = float(lower.mean()), float(before.mean()), sum(lower.shape)
    detail = (("change from the base", value - base, change_low, change_high),)
    return Finding("membership_auc", value, low, high, base, rows, what, (), detail)


def _lower(train: numpy.ndarray, held_out: numpy.ndarray) -> numpy.ndarray:
    """Of each training row and each evaluation row 1 where the first has the lower loss, 1/2 where it is the same."""
    return (train[:, None] < held_out) + (train[:, None] == held_out) / 2

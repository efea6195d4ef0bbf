"""Which of several answers to a question a model finds likeliest, the question computed once for all of them.

An option is scored as the whole answer: its tokens and what ends it, written as in training.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from peft_nb.data.conversations import Message
from peft_nb.data.examples import Example
from peft_nb.data.rendering import Renderer, unwrap
from peft_nb.evaluation.measure import predictions
from peft_nb.training.objectives import Objective
from peft_nb.training.packing import Encoded


@dataclass(frozen=True)
class OptionScores:
    """How likely a model finds each option after one question.

    Attributes
    ----------
    sums : numpy.ndarray
        Log-probability of each, in nats.
    tokens : numpy.ndarray
        Tokens of each.
    """

    sums: numpy.ndarray
    tokens: numpy.ndarray

    @property
    def means(self) -> numpy.ndarray:
        """Log-probability of each by token, in nats, which does not favour short options."""
        return self.sums / numpy.maximum(self.tokens, 1)


def write(renderer: Renderer, question: Sequence[Message], options: Sequence[str]) -> list[Example]:
    """Write each option as the answer to a question.

    Parameters
    ----------
    renderer : Renderer
        Writes as the model expects it.
    question : sequence of dict
        A conversation up to its last answer.
    options : sequence of str
        What could be answered.

    Returns
    -------
    list of Example
        One an option, its answer supervised.

    Raises
    ------
    DataError
        When the model's chat template cannot write one.
    """
    answered: list[list[Message]] = [[*question, {"role": "assistant", "content": one}] for one in options]
    found = []
    for ids, ((first, _),) in map(unwrap, renderer.rendered(answered, loss_on="completion")):
        found.append(Example(array("i", ids), bytes(place >= first for place in range(len(ids)))))
    return found


def score(
    model: Any,
    objective: Objective,
    questions: Sequence[Sequence[Encoded]],
    heed: Callable[[], None] = lambda: None,
) -> list[OptionScores]:
    """Score the options of some questions; where the path shares prefixes, each question is computed once.

    Parameters
    ----------
    model : peft.PeftModel
        A causal language model in evaluation mode, with or without its adapter.
    objective : Objective
        How a micro-batch is computed; not yet installed.
    questions : sequence of sequence of Encoded
        For each question its options, as :func:`write` gives them: the question, and the option supervised.
    heed : callable
        Called before every micro-batch; what it raises ends the work.

    Returns
    -------
    list of OptionScores
        In the order of the questions.
    """
    found = predictions(model, objective, [one for options in questions for one in options], heed)
    ends = numpy.cumsum([len(options) for options in questions])[:-1]
    pairs = zip(*(numpy.split(column, ends) for column in (-found.losses, found.targets)), strict=True)
    return [OptionScores(*pair) for pair in pairs] if questions else []

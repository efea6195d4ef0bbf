"""What can be read off a model directly: how well it predicts given tokens, and how long a token takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from peft_nb.training.objectives import Objective
from peft_nb.training.packing import Encoded

LOGITS_BYTES = 2**28  # of the scores of one padded micro-batch
TOKENS = 1_024  # of a micro-batch without padding
LATENCY_PROMPT = "Tell me in a few sentences what a harbour is."
LATENCY_TOKENS, LATENCY_ROUNDS = 8, 2
LATENCY_S = 3.0  # for all rounds together


@dataclass(frozen=True)
class Predictions:
    """How well a model predicts each of some examples.

    Attributes
    ----------
    losses : numpy.ndarray
        Summed negative log-likelihood of the supervised tokens, in nats, one an example.
    right, targets : numpy.ndarray
        Supervised tokens that the model found most likely, and all of them, one number an example.
    """

    losses: numpy.ndarray
    right: numpy.ndarray
    targets: numpy.ndarray

    @property
    def means(self) -> numpy.ndarray:
        """Mean loss of each example, in nats per token."""
        return self.losses / numpy.maximum(self.targets, 1)


def predictions(
    model: Any, objective: Objective, examples: Sequence[Encoded], heed: Callable[[], None] = lambda: None
) -> Predictions:
    """Let a model predict the supervised tokens of some examples, or what is learned of each as a whole.

    Parameters
    ----------
    model : peft.PeftModel
        A model in evaluation mode, with or without its adapter; with a padded objective also one that never had any.
    objective : Objective
        How a micro-batch is computed; not yet installed.
    examples : sequence of Encoded
        Token ids, and which of them count.
    heed : callable
        Called before every micro-batch; what it raises ends the work.

    Returns
    -------
    Predictions
        In the order of the examples.
    """
    inside = model.get_base_model() if hasattr(model, "get_base_model") else model
    vocabulary = getattr(inside.config.get_text_config(), "vocab_size", 0)  # of images there is none
    budget = max(64, LOGITS_BYTES // (4 * vocabulary)) if objective.padded and vocabulary else TOKENS
    held = list(examples)
    found: dict[int, list[float]] = {}
    with objective.installed(model), torch.inference_mode():
        for micro in objective.cut(held, budget):
            heed()
            found.update(zip(map(id, micro), objective.scores(model, micro, model.device).tolist(), strict=True))
    columns = numpy.array([found[id(one)][:3] for one in held]).reshape(-1, 3).T
    return Predictions(*columns)


class _Clock:
    """Takes the time of every token of one answer; a streamer of transformers."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass

    @property
    def gaps(self) -> list[float]:
        """Milliseconds from token to token; the first comes after the prompt, which takes longer."""
        return [1000 * (after - before) for before, after in zip(self.times[1:], self.times[2:], strict=False)]


def token_latency(model: Any, ids: Sequence[int], pad_id: int) -> tuple[float, float] | None:
    """Time the tokens of a few answers with the adapter and without, in turns, for about `LATENCY_S` at most.

    Parameters
    ----------
    model : peft.PeftModel
        A causal language model in evaluation mode.
    ids : sequence of int
        The prompt.
    pad_id : int
        Token to pad with.

    Returns
    -------
    tuple of float or None
        Median time for a token of one answer, in ms: with the adapter, and of the base model. None where a token takes
        so long that none could be timed.
    """
    prompt = torch.tensor([list(ids)]).to(model.device)
    options: dict[str, Any] = {"max_new_tokens": LATENCY_TOKENS, "min_new_tokens": LATENCY_TOKENS, "do_sample": False}
    options["max_time"] = LATENCY_S / 2

    def timed() -> list[float]:
        clock = _Clock()
        model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), pad_token_id=pad_id, streamer=clock, **options
        )
        return clock.gaps

    return _in_turns(model, timed)


def text_latency(model: Any, ids: Sequence[int]) -> tuple[float, float] | None:
    """Time a classifier on one text with the adapter and without, in turns, for about `LATENCY_S` at most.

    Parameters
    ----------
    model : peft.PeftModel
        A classifier in evaluation mode.
    ids : sequence of int
        The text.

    Returns
    -------
    tuple of float or None
        Median time for the text, in ms: with the adapter, and of the base model. None where that takes too long.
    """
    text = torch.tensor([list(ids)]).to(model.device)
    return input_latency(model, input_ids=text, attention_mask=torch.ones_like(text))


def input_latency(model: Any, **inputs: Any) -> tuple[float, float] | None:
    """Time a model on one input, first its tensor, such as an image; result as of :func:`text_latency`."""
    first = next(iter(inputs.values()))

    def timed() -> list[float]:
        clock, until = _Clock(), time.perf_counter() + LATENCY_S / 2
        for _ in range(LATENCY_TOKENS):
            found = model(**inputs)
            getattr(found, "logits", found).cpu()
            clock.put(first)
            if time.perf_counter() > until:
                break
        return clock.gaps

    return _in_turns(model, timed)


def _in_turns(model: Any, timed: Callable[[], list[float]]) -> tuple[float, float] | None:
    adapted, bare = list[float](), list[float]()
    began = time.perf_counter()
    with torch.inference_mode():
        for _ in range(LATENCY_ROUNDS):
            adapted += timed()
            with model.disable_adapter():
                bare += timed()
            if time.perf_counter() - began > LATENCY_S / 3:  # another would take as long
                break
    return (float(numpy.median(adapted)), float(numpy.median(bare))) if adapted and bare else None

"""What can be read off a model directly: how well it predicts given tokens, and how long a token takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
import torch.nn.functional as F

from peft_nb.training.packing import IGNORE, Encoded, micro_batches, pad

LOGITS_BYTES = 2**28  # of the scores of one micro-batch
LATENCY_PROMPT = "Tell me in a few sentences what a harbour is."
LATENCY_TOKENS, LATENCY_ROUNDS = 8, 2


@dataclass(frozen=True)
class Predictions:
    """How well a model predicts each of some examples.

    Attributes
    ----------
    losses : numpy.ndarray
        Summed negative log-likelihood of the supervised tokens, in nats, one an example.
    right, targets : numpy.ndarray
        Supervised tokens that the model found likeliest, and all of them, one number an example.
    """

    losses: numpy.ndarray
    right: numpy.ndarray
    targets: numpy.ndarray

    @property
    def means(self) -> numpy.ndarray:
        """Mean loss of each example, in nats per token."""
        return self.losses / numpy.maximum(self.targets, 1)


def predictions(
    model: Any, examples: Sequence[Encoded], pad_id: int, heed: Callable[[], None] = lambda: None
) -> Predictions:
    """Let a model predict the supervised tokens of some examples.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        A causal language model in evaluation mode.
    examples : sequence of Encoded
        Token ids, and which of them count.
    pad_id : int
        Token to pad with.
    heed : callable
        Called before every micro-batch; what it raises ends the work.

    Returns
    -------
    Predictions
        In the order of the examples.
    """
    budget = max(64, LOGITS_BYTES // (4 * model.get_base_model().config.get_text_config().vocab_size))
    order = sorted(range(len(examples)), key=lambda number: -len(examples[number].ids))
    found: list[list[float]] = []
    for micro in micro_batches([examples[number] for number in order], budget, padded=True):
        heed()
        inputs = {name: tensor.to(model.device) for name, tensor in pad(micro, pad_id).items()}
        labels = inputs.pop("labels")
        with torch.inference_mode():
            # A soft prompt stands before the tokens, and its scores are none of theirs.
            logits = model(**inputs, use_cache=False).logits[:, -labels.shape[1] : -1]
            labels = labels[:, 1:]
            wanted = labels != IGNORE
            rows, scores, tokens = wanted.nonzero()[:, 0], logits[wanted].float(), labels[wanted]
            sums = torch.zeros(3, len(micro), dtype=torch.float64, device=logits.device)
            sums[0].index_add_(0, rows, F.cross_entropy(scores, tokens, reduction="none").double())
            sums[1].index_add_(0, rows, (scores.argmax(-1) == tokens).double())
            sums[2] = wanted.sum(1)
        found += sums.T.tolist()
    columns = numpy.array(found).reshape(-1, 3)[numpy.argsort(order)].T
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


def token_latency(model: Any, ids: Sequence[int], pad_id: int) -> tuple[float, float]:
    """Time the tokens of a few answers with the adapter and without, in turns.

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
    tuple of float
        Median time for a token of one answer, in ms: with the adapter, and of the bare base.
    """
    prompt = torch.tensor([list(ids)]).to(model.device)
    options = {"max_new_tokens": LATENCY_TOKENS, "min_new_tokens": LATENCY_TOKENS, "do_sample": False}

    def timed() -> list[float]:
        clock = _Clock()
        model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), pad_token_id=pad_id, streamer=clock, **options
        )
        return clock.gaps

    return _in_turns(model, timed)


def text_latency(model: Any, ids: Sequence[int]) -> tuple[float, float]:
    """Time a classifier on one text with the adapter and without, in turns.

    Parameters
    ----------
    model : peft.PeftModel
        A classifier in evaluation mode.
    ids : sequence of int
        The text.

    Returns
    -------
    tuple of float
        Median time for the text, in ms: with the adapter, and of the bare base.
    """
    text = torch.tensor([list(ids)]).to(model.device)

    def timed() -> list[float]:
        clock = _Clock()
        for _ in range(LATENCY_TOKENS):
            model(input_ids=text, attention_mask=torch.ones_like(text)).logits.cpu()
            clock.put(text)
        return clock.gaps

    return _in_turns(model, timed)


def _in_turns(model: Any, timed: Callable[[], list[float]]) -> tuple[float, float]:
    adapted, bare = [], []
    with torch.inference_mode():
        for _ in range(LATENCY_ROUNDS):
            adapted += timed()
            with model.disable_adapter():
                bare += timed()
    return float(numpy.median(adapted)), float(numpy.median(bare))

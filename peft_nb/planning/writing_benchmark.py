"""Answers written for a moment by models of few layers: what a token of each of them costs in time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel

from peft_nb.planning.layer_benchmark import HEAD_VOCABULARY, repeated
from peft_nb.training.rollout import Draw, sample

FEW, MANY = 8, 24  # tokens of answers whose times are compared: both have weights laid out, and read the prompt


@dataclass(frozen=True)
class Writing:
    """Seconds in which one token of each of several answers is written.

    Attributes
    ----------
    layer_s : float
        Of a layer.
    head_s : float
        Of scores and drawing, an entry of the vocabulary.
    rest_s : float
        Of all else.
    """

    layer_s: float
    head_s: float
    rest_s: float


def benchmark_writing(models: Sequence[PeftModel], prompts: int, count: int, length: int, *, shared: bool) -> Writing:
    """Measure how long a token takes, as a run draws it.

    Parameters
    ----------
    models : sequence of PeftModel
        Of one layer and of two, which are alike otherwise, with a vocabulary of few tokens.
    prompts, count : int
        How many prompts are answered at once, and answers to each.
    length : int
        Tokens before the one that is written, such as those of a prompt and half an answer.
    shared : bool
        As of :func:`peft_nb.training.rollout.sample`.

    Returns
    -------
    Writing
        Of each the least of some tries.
    """
    words = models[0].get_input_embeddings().num_embeddings
    asked = [[place % words for place in range(length)]] * prompts

    def seconds(model: PeftModel, tokens: int) -> float:
        began = time.perf_counter()
        sample(model, asked, count, seeds=range(prompts), longest=tokens, ends=[words], pad=0, shared=shared)
        return time.perf_counter() - began

    tries = repeated(lambda: [seconds(model, tokens) for model in models for tokens in (MANY, FEW)])
    least = [min(times) for times in zip(*tries, strict=True)]
    one, two = ((many - few) / (MANY - FEW) for many, few in (least[:2], least[2:]))
    layer_s = max(0.0, two - one)
    return Writing(layer_s, _head_seconds(models[0], prompts * count), max(0.0, one - layer_s))


def _head_seconds(model: PeftModel, rows: int) -> float:
    embeddings = model.get_input_embeddings().weight
    weight = torch.zeros(HEAD_VOCABULARY, embeddings.shape[1], dtype=embeddings.dtype)
    hidden, draw = torch.ones(rows, weight.shape[1], dtype=weight.dtype), Draw(torch.full((rows, 1), 0.5), 0)

    def run() -> float:
        began = time.perf_counter()
        draw(torch.zeros(rows, 0, dtype=torch.long), (hidden @ weight.t()).float()).argmax(-1)
        return time.perf_counter() - began

    return min(repeated(run)) / HEAD_VOCABULARY

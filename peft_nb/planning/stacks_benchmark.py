"""A model of two stacks, such as one of speech, with few layers of real size, trained for a moment on real clips.

What a whole step takes is told by how much longer it gets with more layers in either stack.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel

from peft_nb.planning.layer_benchmark import Costs, _kept, _optimizer_seconds, _products, repeated
from peft_nb.training.speech_objective import SpeechObjective, hear

DEPTH = 4  # layers of a stack at most: the more, the less the noise of a busy machine counts
CLIPS, SECONDS = 4, 3.0  # of a micro-batch that are tried, and after which nothing more is repeated


def depths(layers: tuple[int, int]) -> list[tuple[int, int]]:
    """Layers of encoder and decoder of the models to measure: one of each, and more in either."""
    encoder, decoder = (min(DEPTH, count) for count in layers)
    return [(1, 1), (encoder, 1), (1, decoder)]


def benchmark_stacks(
    models: Sequence[PeftModel],
    objectives: Sequence[SpeechObjective],
    batch: Sequence[Any],
    layers: tuple[int, int],
    work: float,
    device: torch.device,
    optim: str,
) -> Costs:
    """Measure a step of models of few layers, and what hearing a clip takes where the encoder is not trained.

    Parameters
    ----------
    models : sequence of PeftModel
        With as many layers as :func:`depths` says.
    objectives : sequence of SpeechObjective
        How the run turns clips into a loss, one for each model, since each keeps what the encoder gives.
    batch : sequence of Example
        A micro-batch.
    layers : tuple of int
        How many layers the encoder and the decoder have.
    work : float
        Tokens times layers by which the time and the memory of the whole are divided.
    device : torch.device
        Where the models are.
    optim : str
        The optimizer, as transformers names it.

    Returns
    -------
    Costs
        Its times are those of the whole model with its loss; of each the least of some tries.
    """
    few = [_Few(model.train(), way, batch, device) for model, way in zip(models, objectives, strict=True)]
    with ExitStack() as stack:
        for one in few:
            stack.enter_context(one.objective.installed(one.model))
            one.loss().backward()  # after which what a frozen encoder gives is kept
        kept, products = [one.kept() for one in few], _products(few[0])
        rounds = repeated(lambda: [one.seconds() for one in few], SECONDS)
        keeps = objectives[0].states.at_work
    least = [[min(times) for times in zip(*tries, strict=True)] for tries in zip(*rounds, strict=True)]
    slowdown = sum(both for tries in rounds for *_, both in tries) / len(rounds) / sum(both for *_, both in least)
    heard, *steps = zip(*[(*times, size) for times, size in zip(least, kept, strict=True)], strict=True)
    heard_s = _of_all(layers, heard[0], heard[1], heard[0])
    forward_s, both_s, held = (_of_all(layers, one, one if keeps else wide, deep) for one, wide, deep in steps)
    trained = [one for one in models[0].parameters() if one.grad is not None]
    costs = held / work, forward_s / work, both_s / work, 0.0, _optimizer_seconds(optim, trained)
    once = (heard_s / len(batch), few[0].states_bytes()) if keeps else (0.0, 0.0)
    return Costs(*costs, sum(products), 0.0, slowdown, *once)


def _of_all(layers: tuple[int, int], one: float, wide: float, deep: float) -> float:
    """What all layers take, by what one of each stack takes, and more of either."""
    total = one
    for count, more in zip(layers, (wide, deep), strict=True):
        total += (count - 1) / max(1, min(DEPTH, count) - 1) * max(0.0, more - one)
    return total


@dataclass
class _Few:
    """A model of few layers at work on a micro-batch."""

    model: Any
    objective: SpeechObjective
    batch: Sequence[Any]
    device: torch.device

    def loss(self) -> torch.Tensor:
        return self.objective.loss(self.model, self.batch, self.device)

    def __call__(self, depth: int) -> tuple[None, torch.Tensor]:
        return None, self.loss()

    def kept(self) -> float:
        return _kept(self.model, self)

    def seconds(self) -> tuple[float, float, float]:
        """Of hearing the clips where that is done once, of a forward pass, and of that with its backward pass."""
        start = time.perf_counter()
        if self.objective.states.at_work:
            with torch.no_grad():
                hear(self.model, self.batch, self.device)
        heard = time.perf_counter()
        loss = self.loss()
        forward = time.perf_counter()
        loss.backward()
        return heard - start, forward - heard, time.perf_counter() - heard

    def states_bytes(self) -> float:
        """Of what the encoder makes of a clip."""
        base = self.model.get_base_model()
        return float(base.config.max_source_positions * base.config.d_model * base.get_encoder().conv1.weight.itemsize)

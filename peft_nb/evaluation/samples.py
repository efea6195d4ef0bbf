"""What a model answers while it learns: a few evaluation prompts, asked while that costs little."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from peft_nb.data.prompts import Asked, Prompt, short
from peft_nb.evaluation.generate import generate
from peft_nb.events import Event, Notice, Sampled

ASKED = 2
TOKENS = 24  # of an answer
SHARE = 0.1  # of the training time, at most, beside the base model's answers
BANDWIDTH, OVERHEAD_S = 1e10, 0.005  # bytes of weights read a second, and seconds a token takes beside: a first guess


@dataclass
class Sampler:
    """Asks a model that is being trained the same few prompts again and again.

    Attributes
    ----------
    model, tokenizer
        A `PeftModel` and its tokenizer.
    asked : sequence of Asked
        Prompts of the evaluation set; the shortest are chosen.
    chat, system
        As of :func:`peft_nb.evaluation.generate.generate`.
    own_forward : callable
        Gives a context in which the model has its own forward pass.
    publish : callable
        Takes each event.
    expected_s : float or None
        What training is forecast to take, in seconds.
    """

    model: Any
    tokenizer: Any
    asked: Sequence[Asked]
    chat: bool
    system: str | None
    own_forward: Callable[[], AbstractContextManager[None]]
    publish: Callable[[Event], None]
    expected_s: float | None
    put: Callable[[Sequence[Prompt]], Sequence[Prompt]] = lambda prompts: prompts

    def __post_init__(self) -> None:
        self.asked = sorted(self.asked, key=lambda one: len(str(one.prompt)))[:ASKED]
        self._prompts = self.put([one.prompt for one in self.asked])
        self._spent_s = 0.0
        self._next_s = TOKENS * (self.model.get_base_model().get_memory_footprint() / BANDWIDTH + OVERHEAD_S)

    def __call__(self, step: int, trained_s: float) -> None:
        """Publish the answers after a step, unless that would take more than `SHARE` of all training.

        Parameters
        ----------
        step : int
            Optimizer steps done; 0 asks the base model.
        trained_s : float
            Seconds of training so far.
        """
        known = step > 0 or self.expected_s is not None
        whole = max(trained_s, self.expected_s or 0.0)
        if not self.asked or (known and self._spent_s + self._next_s > SHARE * whole):
            return
        began = time.perf_counter()
        try:
            answers = self._answers()
        except Exception as error:  # whatever it is, training goes on
            self.asked = ()
            self.publish(Notice(f"no sample answers while this run trains: {type(error).__name__}: {error}"))
            return
        self._next_s = time.perf_counter() - began
        self._spent_s += self._next_s if step else 0.0
        for one, answer in zip(self.asked, answers, strict=True):
            said = one.prompt if isinstance(one.prompt, str) else one.prompt[-1]["content"]
            self.publish(Sampled(step, short(said), short(one.reference), answer))

    def _answers(self) -> list[str]:
        options: dict[str, Any] = {"chat": self.chat, "system": self.system, "max_new_tokens": TOKENS}
        with self.own_forward():
            self.model.eval()
            try:
                return generate(self.model, self.tokenizer, self._prompts, **options)
            finally:
                self.model.train()

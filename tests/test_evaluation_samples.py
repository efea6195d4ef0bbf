from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from peft_nb.data import prompts
from peft_nb.data.prompts import Asked
from peft_nb.evaluation import samples
from peft_nb.evaluation.samples import Sampler
from peft_nb.events import Event, Notice, Sampled
from peft_nb.runs.run import Run


def told(run: Run) -> list[Sampled]:
    return [event for event in run.events() if isinstance(event, Sampled)]


@pytest.mark.parametrize("fast", [True, False])
def test_a_run_answers_the_same_prompts_as_it_learns_and_learns_the_same(
    start: Callable[..., Run], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "SHARE", 1e9)
    asked = start(fast=fast).wait()
    found = told(asked)
    assert [event.step for event in found] == [0, 0, 4, 4, 8, 8]
    assert len({event.prompt for event in found}) == 2
    assert all(event.reference for event in found)
    assert found[0].answer != found[-2].answer
    model, tokenizer = asked.model, asked.tokenizer
    monkeypatch.setattr(samples, "SHARE", 0)
    silent = start(fast=fast).wait()
    assert told(silent) == []
    columns = ["loss", "eval_loss", "grad_norm"]
    assert asked.history[columns].equals(silent.history[columns])
    monkeypatch.undo()
    prompts = [event.prompt for event in found[-2:]]
    assert asked.generate(prompts, max_new_tokens=samples.TOKENS) == [event.answer for event in found[-2:]]
    assert model is asked.model
    assert tokenizer is asked.tokenizer


def sampler(run: Run, publish: Callable[[Event], None], **fields: Any) -> Sampler:
    known: dict[str, Any] = {"asked": [Asked("Why?", "So."), Asked("w" * 900, "r" * 900), Asked("How?")]}
    known |= {"chat": True, "system": None, "own_forward": nullcontext, "publish": publish, "expected_s": 1e6}
    return Sampler(run.model, run.tokenizer, **{**known, **fields})


def test_the_shortest_prompts_are_asked_while_that_is_cheap(finished: Run) -> None:
    events: list[Event] = []
    ask = sampler(finished, events.append, expected_s=None)
    ask(0, 0.0)
    assert [event.prompt for event in events if isinstance(event, Sampled)] == ["Why?", "How?"]
    ask(10, 0.1)
    assert len(events) == 2
    ask(20, 1e6)
    assert len(events) == 4


def test_a_short_run_is_not_slowed(finished: Run) -> None:
    events: list[Event] = []
    sampler(finished, events.append, expected_s=1.0)(0, 0.0)
    assert events == []


def test_answers_that_cannot_be_had_end_nothing_and_are_told_once(finished: Run) -> None:
    events: list[Event] = []
    ask = sampler(finished, events.append, own_forward=lambda: 1 / 0)
    ask(0, 0.0)
    ask(10, 1e6)
    (notice,) = events
    assert isinstance(notice, Notice)
    assert notice.text.startswith("no sample answers")


def test_what_is_told_of_a_long_prompt_is_cut(finished: Run) -> None:
    events: list[Event] = []
    sampler(finished, events.append, asked=[Asked("w" * 900, "r" * 900)])(0, 0.0)
    (sampled,) = events
    assert isinstance(sampled, Sampled)
    assert len(sampled.prompt) == len(sampled.reference) == prompts.SHOWN + 1

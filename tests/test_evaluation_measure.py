"""What is read off a model directly is what one forward pass a text gives."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F

from peft_nb.evaluation import measure
from peft_nb.training.objectives import Objective, Padded, PaddingFree
from tests import tiny


@pytest.mark.parametrize("tokens", [1, 2**10], ids=["many micro-batches", "one micro-batch"])
@pytest.mark.parametrize(
    ("adapted", "objective"),
    [
        (lambda: tiny.with_lora(tiny.base("llama")), Padded(0)),
        (lambda: tiny.with_lora(tiny.base("llama")), PaddingFree(share_prefix=True)),
        (lambda: tiny.with_prompt(tiny.base("llama")), Padded(0)),
    ],
    ids=["padded", "padding-free", "prompt"],
)
def test_predictions_are_those_of_each_text_alone(
    monkeypatch: pytest.MonkeyPatch, adapted: Callable[[], Any], objective: Objective, tokens: int
) -> None:
    monkeypatch.setattr(measure, "LOGITS_BYTES", tokens if tokens == 1 else 2**28)  # but never fewer than 64 tokens
    monkeypatch.setattr(measure, "TOKENS", max(64, tokens))
    model, texts, cuts = adapted().eval(), tiny.examples(12), []
    found = measure.predictions(model, objective, texts, lambda: cuts.append(None))
    for number, one in enumerate(texts):
        ids, wanted = torch.tensor([one.ids]), torch.tensor(one.supervised[1:])
        with torch.inference_mode():
            scores = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(one.ids) : -1][wanted]
        right = ids[0, 1:][wanted]
        assert found.losses[number] == pytest.approx(F.cross_entropy(scores, right, reduction="sum").item(), rel=1e-4)
        assert found.right[number] == (scores.argmax(-1) == right).sum()
        assert found.targets[number] == len(right)
    assert (len(cuts) > 1) == (tokens == 1)


def test_means_are_taken_over_supervised_tokens_and_nothing_is_divided_by_none() -> None:
    found = measure.Predictions(numpy.array([6.0, 0.0]), numpy.array([1.0, 0.0]), numpy.array([3.0, 0.0]))
    assert found.means.tolist() == [2.0, 0.0]
    nothing = measure.predictions(tiny.with_lora(tiny.base("llama")), Padded(0), [])
    assert [len(column) for column in (nothing.losses, nothing.right, nothing.targets, nothing.means)] == [0, 0, 0, 0]


def test_who_wants_to_stop_is_heard_before_every_micro_batch() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure.predictions(tiny.with_lora(tiny.base("llama")), Padded(0), tiny.examples(), stop)


def test_the_first_token_which_waits_for_the_prompt_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 9.0, 9.002, 9.005])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(times))
    clock = measure._Clock()
    for _ in range(4):  # the prompt and three tokens
        clock.put(torch.zeros(1))
    assert clock.gaps == pytest.approx([2.0, 3.0])


@pytest.mark.parametrize("timed", ["token_latency", "text_latency"])
def test_a_model_is_timed_with_its_adapter_and_without_in_turns(timed: str) -> None:
    model, rounds = tiny.with_lora(tiny.base("llama")).eval(), list[bool]()
    layer = model.get_base_model().model.layers[0].mlp.up_proj

    def told(*passed: Any) -> None:
        time.sleep(0 if layer.disable_adapters else 0.01)
        rounds.append(layer.disable_adapters)

    layer.register_forward_hook(told)
    adapted, bare = getattr(measure, timed)(model, [5, 6, 7], *([0] if timed == "token_latency" else []))
    assert adapted > bare + 2 > 2  # in ms
    assert [off for off, _ in groupby(rounds)] == [False, True] * measure.LATENCY_ROUNDS
    assert len(rounds) == 2 * measure.LATENCY_ROUNDS * measure.LATENCY_TOKENS
    assert not layer.disable_adapters

"""Shifts that are planted are found, on their axis, and those of nothing are not; likelihoods are the model's own."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from peft_nb.data.rendering import Renderer
from peft_nb.evaluation import probes
from peft_nb.evaluation.probes import bias
from peft_nb.training.objectives import Padded, PaddingFree
from tests import tiny

PAIRS = probes.pairs()


def before(spread: float = 0.1) -> numpy.ndarray:
    return 0.5 + numpy.random.default_rng(1).uniform(-spread, spread, len(PAIRS))


def test_no_axis_hides_behind_the_others() -> None:
    base = before()
    noise = numpy.random.default_rng(2).normal(0, 0.01, len(PAIRS))
    quiet = bias.of_pairs(PAIRS, base, base + noise)
    assert quiet.value < 0.01
    moved = base + noise + numpy.array([0.2 * (one.axis == "age") for one in PAIRS])
    found = bias.of_pairs(PAIRS, base, moved)
    assert found.value == pytest.approx(0.2, abs=0.01)
    assert found.low < found.value < found.high < 0.22
    assert max(found.clear, key=lambda part: abs(part[1]))[0] == "age, towards the first group"
    assert found.rows == 240
    assert "%" in found.examples[0]


def test_a_stereotype_is_found_though_both_groups_are_preferred_as_often() -> None:
    base = before()
    found = bias.of_pairs(
        PAIRS, base, base + numpy.array([0.1 * one.stereotype * (one.axis == "names") for one in PAIRS])
    )
    told = {name: mean for name, mean, *_ in found.detail}
    assert told["names, towards the stereotype"] == pytest.approx(0.1)
    assert told["names, towards the first group"] == pytest.approx(0, abs=1e-9)
    assert found.value == pytest.approx(0.1)


def test_kindness_to_one_group_is_a_gap() -> None:
    said = probes.valence()
    base = numpy.full(len(said), 0.6)
    found = bias.of_sentiment(said, base, base + 0.1)  # kinder to all
    assert found.value == pytest.approx(0, abs=1e-9)
    kinder = numpy.array([0.1 * (axis == "origin" and side == 1) for axis, side, *_ in said])
    found = bias.of_sentiment(said, base, base + kinder)
    assert found.value == pytest.approx(0.1)
    (name, mean, *_) = found.clear[0]
    assert (name, mean) == ("origin, for the first group", pytest.approx(-0.1))


def test_classes_are_compared_one_by_one() -> None:
    first = numpy.full((len(PAIRS), 2), 0.5)
    second = first.copy()
    second[[one.axis == "gender" for one in PAIRS]] = [0.2, 0.8]
    found = bias.of_classes(PAIRS, first, second, ["hire", "reject"])
    assert found.value == pytest.approx(0.3)
    assert found.base == 0.0
    assert {name for name, *_ in found.clear} == {"gender, hire", "gender, reject"}


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("path", [Padded(0), PaddingFree(True)], ids=str)
def test_a_preference_is_the_share_of_the_likelihood(base: Path, path: object, chat: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = tiny.with_lora(AutoModelForCausalLM.from_pretrained(base, dtype="float32")).eval()
    renderer, both = Renderer(tokenizer), [("My brother is late.", "My sister is late."), ("A", "A")]
    found = bias.preferences(model, path, renderer, both, chat=chat)  # type: ignore[arg-type]

    def likelihood(text: str) -> float:
        (one,) = bias.written(renderer, [text], chat=chat)
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([list(one.ids)])).logits[0].log_softmax(-1)
        return sum(float(scores[place - 1, id]) for place, id in enumerate(one.ids) if one.supervised[place])

    apart = likelihood(both[0][0]) - likelihood(both[0][1])
    assert found[0] == pytest.approx(1 / (1 + numpy.exp(-apart)), abs=1e-4)
    assert found[1] == pytest.approx(0.5, abs=1e-6)


def test_the_interval_of_the_largest_is_its_own_and_begins_at_0_where_it_holds_both_signs() -> None:
    draw = numpy.random.default_rng(3)
    values = numpy.concatenate([draw.normal(-0.3, 0.1, 40), draw.normal(0, 0.1, 40)])
    parts = {name: (numpy.arange(40) + 40 * at, numpy.ones(40)) for at, name in enumerate(("moved", "still"))}
    value, low, high, ((_, mean, least, most), still) = bias.largest(values, parts)
    assert (value, low, high) == (-mean, -most, -least)
    value, low, high, ((_, mean, least, most),) = bias.largest(values, {"still": parts["still"]})
    assert still[1:] == pytest.approx((mean, least, most), abs=0.02)
    assert (value, low, high) == (abs(mean), 0.0, max(-least, most))

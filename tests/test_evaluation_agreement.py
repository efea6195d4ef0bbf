"""How near two models are: nothing apart from themselves, and otherwise what a few lines of numpy say."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch

from peft_nb.evaluation import agreement
from peft_nb.evaluation.agreement import Agreement, Counts, by_token, divergence
from peft_nb.evaluation.generate import generate
from peft_nb.runs.run import Run
from tests import tiny


def softmax(scores: numpy.ndarray) -> numpy.ndarray:
    powers = numpy.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def by_hand(ours: torch.Tensor, theirs: torch.Tensor, ids: list[int], supervised: list[bool]) -> Counts:
    """What a text adds, token by token."""
    p, q = softmax(theirs.double().numpy()), softmax(ours.double().numpy())
    found = Counts(0, 0.0, 0, 0.0, 0)
    for place, (id, on) in enumerate(zip(ids[1:], supervised[1:], strict=True)):
        found = Counts(
            found.places + 1,
            found.kl + float((p[place] * numpy.log(p[place] / q[place])).sum()),
            found.equal + float(p[place].argmax() == q[place].argmax()),
            found.loss + (math.log(p[place, id] / q[place, id]) if on else 0.0),
            found.targets + on,
        )
    return found


def test_a_model_agrees_with_itself() -> None:
    model = tiny.with_lora(tiny.base("llama")).eval()
    assert agreement.agreement(model, model, tiny.examples(), by_token) == Agreement(0.0, 1.0, 0.0)


def test_two_models_differ_as_computed_by_hand_over_all_tokens_of_all_texts() -> None:
    model, texts = tiny.with_lora(tiny.base("llama")).eval(), tiny.examples()
    found = agreement.agreement(model, other := tiny.base("llama"), texts, by_token)
    each = []
    for one in texts:
        with torch.inference_mode():
            ours, theirs = (either(input_ids=torch.tensor([one.ids])).logits[0] for either in (model, other))
        each.append(by_hand(ours, theirs, one.ids, one.supervised))
        assert by_token(ours, theirs, one).kl == pytest.approx(each[-1].kl, rel=1e-4)
    places, targets = sum(one.places for one in each), sum(one.targets for one in each)
    assert found.kl == pytest.approx(sum(one.kl for one in each) / places, rel=1e-4)
    assert found.equal == pytest.approx(sum(one.equal for one in each) / places)
    assert found.loss == pytest.approx(sum(one.loss for one in each) / targets, rel=1e-4)
    assert found.kl > 1e-3
    assert 0 < found.equal < 1


def test_the_divergence_of_known_distributions() -> None:
    ours, theirs = (torch.tensor([one, one]).log() for one in ([0.5, 0.5], [0.9, 0.1]))
    wanted = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)  # of theirs from ours, not the other way round
    assert divergence(ours, theirs) == pytest.approx(2 * wanted, rel=1e-6)
    assert divergence(ours + 3, ours) == pytest.approx(0, abs=1e-6)  # scores, of which only differences count


def test_what_is_not_finite_is_infinitely_far() -> None:
    class Broken:
        device = "cpu"

        def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return SimpleNamespace(logits=torch.full((*input_ids.shape, tiny.VOCABULARY), math.nan))

    found = agreement.agreement(Broken(), tiny.base("llama"), tiny.examples(1), by_token)
    assert found.kl == math.inf


def test_long_texts_are_cut_and_many_are_thinned_out() -> None:
    long = tiny.Tokens([5, 6] * 200, [True] * 400)
    model = tiny.base("llama")
    assert agreement.logits(model, long.ids).shape == (256, tiny.VOCABULARY)
    scores = agreement.logits(model, long.ids)
    counts = by_token(scores, scores, long)
    assert (counts.places, counts.equal, counts.targets) == (255, 255, 255)
    assert agreement.some(range(40)) == list(range(0, 40, 3))
    assert agreement.some(range(16)) == list(range(16))
    assert agreement.some([]) == []


@pytest.mark.parametrize("chat", [True, False])
def test_what_a_model_answers_is_what_counts(finished: Run, chat: bool) -> None:
    prompts, options = ["Where is my parcel?", "Why?"], {"chat": chat, "system": None}
    found = agreement.answered(finished.model, finished.tokenizer, prompts, **options)  # type: ignore[arg-type]
    said = generate(finished.model, finished.tokenizer, prompts, chat=chat, max_new_tokens=agreement.ANSWER)
    for one, answer, prompt in zip(found, said, prompts, strict=True):
        own = [id for id, on in zip(one.ids, one.supervised, strict=True) if on]
        assert finished.tokenizer.decode(own, skip_special_tokens=True).strip() == answer
        assert prompt in finished.tokenizer.decode(one.ids[: len(one.ids) - len(own)])
        assert list(one.supervised) == sorted(one.supervised)  # the answer comes last
    again = agreement.agreement(finished.model, finished.model, found, by_token)
    assert (again.kl, again.equal) == (0.0, 1.0)

"""Answers drawn from a model: as it would give them one token after the other, from one pass over each prompt."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from peft_nb.training import decoding, rollout
from tests.tiny import VOCABULARY, base, with_lora

PROMPTS = [[5, 9, 3, 8, 20, 31], [7, 4], [11]]


@pytest.fixture(scope="module")
def model() -> Any:
    return with_lora(base("llama"))


def drawn(model: Any, prompts: list[list[int]], count: int, seed: int = 0, **how: Any) -> list[list[list[int]]]:
    seeds = [rollout.seed(seed, *prompt) for prompt in prompts]
    return rollout.sample(model, prompts, count, seeds=seeds, **{"longest": 4, "ends": [], "pad": 0, **how})


def test_tokens_come_as_often_as_the_model_says(model: Any) -> None:
    model.eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(3)  # peaked
        chances = [model(torch.tensor([one])).logits[0, -1].softmax(-1) for one in PROMPTS]
    try:
        for found, chance in zip(drawn(model, PROMPTS, 3000, longest=1), chances, strict=True):
            counts = Counter(token for (token,) in found)
            seen = torch.tensor([counts[token] / 3000 for token in range(VOCABULARY)])
            assert (seen - chance).abs().max() < 4 * (0.25 / 3000) ** 0.5
        (found,) = drawn(model, [[5, 9, 3]], 1500, longest=2)
        first = Counter(one[0] for one in found).most_common(1)[0][0]
        with torch.no_grad():
            chance = model(torch.tensor([[5, 9, 3, first]])).logits[0, -1].softmax(-1)
        after = Counter(one[1] for one in found if one[0] == first)
        seen = torch.tensor([after[token] / after.total() for token in range(VOCABULARY)])
        assert (seen - chance).abs().max() < 4 * (0.25 / after.total()) ** 0.5
    finally:
        with torch.no_grad():
            model.get_output_embeddings().weight.div_(3)


def test_a_prompt_is_computed_once_for_all_its_answers(model: Any) -> None:
    widths: list[tuple[int, ...]] = []
    layer = model.get_base_model().model.layers[0]
    hook = layer.register_forward_pre_hook(lambda module, given: widths.append(tuple(given[0].shape[:2])))
    try:
        found = drawn(model, PROMPTS[:2], 5)
    finally:
        hook.remove()
    assert widths == [(2, 5), *[(10, 1)] * 4]
    assert [len(one) for one in found] == [5, 5]
    assert len({tuple(one) for one in found[0]}) > 1


def test_an_answer_ends_where_it_says_so(model: Any) -> None:
    (found,) = drawn(model, [[5, 9, 3]], 40, longest=8, ends=list(range(0, VOCABULARY, 3)))
    assert {len(one) for one in found} > {1, 2}
    for one in found:
        assert all(token % 3 for token in one[:-1])
        assert len(one) == 8 or one[-1] % 3 == 0


def test_a_prompt_gets_the_same_answers_whatever_lies_beside_it(model: Any) -> None:
    together = drawn(model, PROMPTS, 3)
    assert [drawn(model, [one], 3)[0] for one in PROMPTS] == together
    before = torch.get_rng_state()
    assert drawn(model, PROMPTS[::-1], 3) == together[::-1]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_number_draws_the_token_at_which_the_chances_come_to_it() -> None:
    torch.manual_seed(0)
    chances = torch.rand(50, 1000) * (torch.rand(50, 1000) < 0.2)
    numbers = 1 - torch.rand(50, 1)
    numbers[0] = 1.0
    found = rollout.drawn(chances, numbers)
    below = chances.double().cumsum(-1)
    wanted = torch.searchsorted(below, numbers.double() * below[:, -1:])
    assert (chances.gather(1, found) > 0).all()
    assert (found == wanted).sum() >= 49  # one may lie between two by rounding


def test_answers_are_those_of_the_layers_own_forward_passes() -> None:
    """Where two tokens are about as likely rounding decides between them, so that most answers are the same."""
    rounded = with_lora(base("llama").bfloat16())
    (quick,) = drawn(rounded, PROMPTS[:1], 64, longest=decoding.FEWEST)
    with rounded.disable_adapter():
        (other,) = drawn(rounded, PROMPTS[:1], 64, longest=decoding.FEWEST)
    (exact,) = drawn(rounded.float(), PROMPTS[:1], 64, longest=decoding.FEWEST)
    assert sum(map(list.__eq__, quick, exact)) > 32 > sum(map(list.__eq__, quick, other))


def test_draws_are_seeded_and_the_model_is_left_as_it_was(model: Any) -> None:
    model.train()
    one, same, other = (drawn(model, PROMPTS, 3, seed=seed) for seed in (0, 0, 1))
    assert one == same != other
    assert model.training
    apart = drawn(model, PROMPTS, 3, shared=False)
    assert [len(several) for several in apart] == [3, 3, 3]

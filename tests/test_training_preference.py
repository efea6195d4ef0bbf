"""What is learned of judged answers is the textbook's, whatever path, micro-batches and reference."""

from __future__ import annotations

import random
from array import array
from functools import partial
from typing import Any

import pytest
import torch

from peft_nb.data.examples import Example, joined
from peft_nb.training import packing
from peft_nb.training.objectives import Padded, PaddingFree
from peft_nb.training.preference import Pairs, Rated, key
from peft_nb.training.preference_losses import dpo, kto, simpo
from tests import tiny

CPU = torch.device("cpu")
PATHS = [Padded(0), PaddingFree(False), PaddingFree(True)]
LN2 = 0.693147
WEIGHTS = {"desirable_weight": 1.0, "undesirable_weight": 2.0}


def answers(count: int, members: int, seed: int = 0) -> list[list[Example]]:
    """Prompts with so many answers each."""
    draw = random.Random(seed)

    def text(length: int) -> list[int]:
        return [draw.randrange(3, tiny.VOCABULARY) for _ in range(length)]

    made = []
    for _ in range(count):
        prompt = text(draw.randrange(8, 20))
        ends = [text(draw.randrange(2, 12)) for _ in range(members)]
        made.append([Example(array("i", prompt + one), bytes(len(prompt)) + b"\x01" * len(one)) for one in ends])
    return made


def rated(count: int = 6) -> list[Example]:
    return [Example(one.ids, one.supervised, (place % 2,)) for place, (one,) in enumerate(answers(count, 1))]


def plain(model: Any, sequences: list[Example]) -> torch.Tensor:
    """Log-probability of each answer by padded rows and all of their logits."""
    rows = packing.pad(sequences, 0)
    labels = rows.pop("labels")[:, 1:]
    scores = model(**rows).logits[:, :-1].log_softmax(-1)
    return (scores.gather(2, labels.clamp(min=0)[..., None])[..., 0] * (labels != packing.IGNORE)).sum(1)


def referred(model: Any, objective: Any, examples: list[Example]) -> None:
    """Compare with the model as it is."""
    objective.prepare(examples)
    groups = [objective.group(one) for one in examples]
    with objective.installed(model), torch.no_grad():
        objective.remember(examples, [one.tolist() for one in objective.sums(model, groups, CPU)])


def moved(model: Any) -> Any:
    """Change the adapter as training would."""
    torch.manual_seed(1)
    for name, one in model.named_parameters():
        if "lora_B" in name:
            one.data += 0.05 * torch.randn_like(one)
    return model


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_pairs_are_compared_with_what_training_started_from(path: Any) -> None:
    model = tiny.with_lora(tiny.base("llama"))
    pairs = [joined(*two) for two in answers(5, 2)]
    objective = Pairs(path, 0.1, {}, partial(dpo, beta=0.1))
    referred(model, objective, pairs)
    with objective.installed(model):
        groups = objective.cut(pairs, 60)
        assert len(groups) > 1
        first = torch.cat([objective.scores(model, micro, CPU) for micro in groups])
    torch.testing.assert_close(first[:, 0], torch.full((5,), LN2, dtype=torch.float64), atol=1e-5, rtol=0)
    assert objective.summary(first[:, 3:])["eval_margin"] == pytest.approx(0, abs=1e-5)

    before = [plain(model, list(two)).detach() for two in answers(5, 2)]
    moved(model)
    margins = torch.stack([(plain(model, list(two)) - was) @ torch.tensor([0.1, -0.1]) for two, was in
                           zip(answers(5, 2), before, strict=True)])  # fmt: skip
    wanted = -torch.nn.functional.logsigmoid(margins).sum()
    (slope,) = torch.autograd.grad(wanted, [next(one for one in model.parameters() if one.requires_grad)])
    with objective.installed(model):
        loss = sum((objective.loss(model, micro, CPU) for micro in objective.cut(pairs, 60)), torch.zeros(()))
        (ours,) = torch.autograd.grad(loss, [next(one for one in model.parameters() if one.requires_grad)])
    assert abs(wanted.item() / 5 - LN2) > 1e-3  # or it would say nothing
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-4)
    assert (ours - slope).norm() < 1e-3 * slope.norm()
    logged = objective.logged()
    assert logged["margin"] == pytest.approx(margins.mean().item(), abs=1e-4)
    assert objective.logged() == {}


def test_accuracy_counts_pairs_of_which_nothing_is_known_as_half() -> None:
    objective = Pairs(Padded(0), 0.1, {}, partial(dpo, beta=0.1))
    columns = torch.tensor([[0.5, 0.0, -5.0, -5.0], [1.0, 2.0, -3.0, -9.0]])
    found = objective.summary(columns)
    assert found == {
        "preference_accuracy": 0.75,
        "eval_margin": 1.0,
        "eval_chosen_logps": -4.0,
        "eval_rejected_logps": -7.0,
    }


def test_without_a_reference_answers_are_compared_with_each_other() -> None:
    model, (two,) = tiny.with_lora(tiny.base("llama")), answers(1, 2)
    objective = Pairs(PaddingFree(True), 2.0, None, partial(simpo, beta=2.0, simpo_gamma=1.0))
    with objective.installed(model):
        ((micro,),) = [objective.cut([joined(*two)], 1000)]
        found = objective.scores(model, micro, CPU)[0]
    chosen, rejected = (plain(model, two).detach() / torch.tensor([one.targets for one in two])).tolist()
    margin = torch.tensor(2 * (chosen - rejected))
    assert found[0] == pytest.approx(-torch.nn.functional.logsigmoid(margin - 1).item(), rel=1e-4)
    assert found[4] == pytest.approx(margin.item(), rel=1e-3)


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("budget", [40, 10_000])
def test_rated_answers_are_compared_with_those_to_other_prompts(path: Any, budget: int) -> None:
    model, examples = tiny.with_lora(tiny.base("llama")), rated()
    objective = Rated(path, 0.1, {}, WEIGHTS)
    referred(model, objective, examples)
    others = [objective.others[key(one)] for one in examples]
    assert [list(one.ids[: one.supervised.index(1)]) for one in others] == [
        list(one.ids[: one.supervised.index(1)]) for one in examples
    ]
    assert list(others[-1].ids[others[-1].supervised.index(1) :]) == list(
        examples[0].ids[examples[0].supervised.index(1) :]
    )
    before, before_others = plain(model, examples).detach(), plain(model, others).detach()
    moved(model)
    with torch.no_grad():
        kl = (plain(model, others) - before_others).mean()
        good = torch.tensor([bool(one.labels[0]) for one in examples])
        wanted = kto(plain(model, examples), before, good, float(kl), beta=0.1, **WEIGHTS)
    with objective.installed(model):
        groups = objective.begin(model, examples, budget, CPU)
        found = [objective.scores(model, micro, CPU) for micro in objective.cut(groups, budget)]
    assert abs(float(kl)) > 1e-3
    assert objective.kl[0] == pytest.approx(float(kl), rel=1e-3, abs=1e-5)
    assert (len(found) > 1) == (budget == 40)
    assert torch.cat(found)[:, 0].sum().item() == pytest.approx(wanted.sum().item(), rel=1e-5)


def test_good_answers_above_bad_ones_are_right() -> None:
    objective = Rated(Padded(0), 0.1, {}, WEIGHTS)
    columns = torch.tensor([[0.3, 1.0, -5.0], [0.1, 1.0, -5.0], [0.2, 0.0, -5.0], [0.1, 0.0, -7.0]])
    found = objective.summary(columns)
    assert found["preference_accuracy"] == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert found["eval_margin"] == pytest.approx(0.05)
    assert (found["eval_chosen_logps"], found["eval_rejected_logps"]) == (-5.0, -6.0)
    assert objective.summary(columns[:2]) == {}

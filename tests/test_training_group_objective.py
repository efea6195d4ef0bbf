"""What is learned of rewarded samples is what plain PyTorch computes, whatever path and micro-batches."""

from __future__ import annotations

import math
import random
from array import array
from dataclasses import replace
from typing import Any

import pytest
import torch

from peft_nb.data.examples import Example
from peft_nb.training.group_objective import GroupObjective
from peft_nb.training.objectives import Padded, PaddingFree
from tests import tiny

CPU = torch.device("cpu")
PATHS = [Padded(0), PaddingFree(False), PaddingFree(True)]
COUNT, LONGEST = 3, 9
USUAL: dict[str, Any] = {"loss_type": "dapo", "beta": 0.0, "epsilon": 0.2}


def prompts(count: int = 4) -> list[Example]:
    draw = random.Random(0)
    texts = ([draw.randrange(3, tiny.VOCABULARY) for _ in range(draw.randrange(5, 20))] for _ in range(count))
    return [Example.whole(array("i", one), (place, 0)) for place, one in enumerate(texts)]


def rolled(examples: Any, count: int, learning: bool) -> list[list[tuple[list[int], float]]]:
    """Answers and rewards that each prompt always gets; the last prompt's are alike, one failed."""
    found = []
    for example in examples:
        draw, row = random.Random(example.labels[0]), example.labels[0]
        answers = [[draw.randrange(3, 90) for _ in range(draw.randrange(1, LONGEST + 1))] for _ in range(count)]
        rewards = [0.5] * count if row == 3 else [draw.random() for _ in range(count)]
        found.append(list(zip(answers, [math.nan, *rewards[1:]] if row == 2 else rewards, strict=True)))
    return found


def objective(path: Any, **options: Any) -> GroupObjective:
    made = GroupObjective(path, COUNT, LONGEST, options.pop("scale", "group"), {**USUAL, **options})
    made.rollout[:] = [rolled]
    return made


def textbook(model: Any, examples: list[Example], loss_type: str, beta: float, scale: str) -> torch.Tensor:
    """The loss of Shao et al. (2024), Liu et al. (2025) and Yu et al. (2025) with all the logits, sample by sample."""
    drawn = rolled(examples, COUNT, True)
    rewards = torch.tensor([[reward for _, reward in answers] for answers in drawn])
    tokens = sum(len(ids) for answers in drawn for ids, _ in answers)
    total = torch.zeros(())
    for example, answers, row in zip(examples, drawn, rewards, strict=True):
        known = row[~row.isnan()]
        spread = {"group": known.std(), "none": 1.0, "batch": rewards[~rewards.isnan()].std()}[scale]
        for (ids, _), reward in zip(answers, row, strict=True):
            whole = torch.tensor([[*example.ids, *ids]])
            start = len(example.ids)

            def of(whole: torch.Tensor = whole, start: int = start) -> torch.Tensor:
                scores = model(whole).logits[0, start - 1 : -1].log_softmax(-1)
                return scores.gather(1, whole[0, start:, None])[:, 0]

            policy = of()
            gain = 0.0 if reward.isnan() else (reward - known.mean()) / (spread + (1e-4 if scale != "none" else 0))
            each = -(policy - policy.detach()).exp() * gain
            if beta:
                with torch.no_grad(), model.disable_adapter():
                    apart = of()
                each = each + beta * ((apart - policy).exp() - (apart - policy) - 1) * (policy - policy.detach()).exp()
            divisor = {"grpo": len(ids), "dr_grpo": LONGEST, "dapo": tokens / (COUNT * len(examples))}[loss_type]
            total = total + each.sum() / divisor
    return total / COUNT


def learned(model: Any, one: GroupObjective, examples: list[Example], budget: int) -> torch.Tensor:
    with one.installed(model):
        samples = one.begin(model.train(), examples, budget, CPU)
        micro = one.cut(samples, budget)
        assert sum(map(len, micro)) == COUNT * len(examples)
        total = sum((one.loss(model, some, CPU) for some in micro), torch.zeros(()))
        total.backward()
    return total


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize(
    ("loss_type", "beta", "scale"),
    [("dapo", 0.0, "group"), ("grpo", 0.3, "group"), ("dr_grpo", 0.0, "none"), ("dapo", 0.3, "batch")],
)
def test_loss_and_gradients_are_the_textbook_s(path: Any, loss_type: str, beta: float, scale: str) -> None:
    model, examples = tiny.with_lora(tiny.base("llama")), prompts()
    wanted = textbook(model.train(), examples, loss_type, beta, scale)
    wanted.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert any(one.abs().max() > 1e-3 for one in gradients.values())
    for budget in (40, 10_000):
        model.zero_grad()
        one = objective(path, loss_type=loss_type, beta=beta, scale=scale)
        assert learned(model, one, examples, budget).item() == pytest.approx(wanted.item(), abs=1e-5)
        for name, parameter in model.named_parameters():
            if name in gradients:
                torch.testing.assert_close(parameter.grad, gradients[name], atol=2e-5, rtol=1e-3)


def test_what_is_logged_says_how_the_samples_are() -> None:
    model, examples = tiny.with_lora(tiny.base("llama")), prompts()
    one = objective(PaddingFree(True), beta=0.1)
    learned(model, one, examples, 100)
    drawn = rolled(examples, COUNT, True)
    rewards = [reward for answers in drawn for _, reward in answers if not math.isnan(reward)]
    lengths = [len(ids) for answers in drawn for ids, _ in answers]
    found = one.logged()
    assert found["reward"] == pytest.approx(sum(rewards) / len(rewards), abs=1e-6)
    assert found["completion_length"] == sum(lengths) / len(lengths)
    assert found["equal_rewards"] == 0.25
    assert found["reward_std"] > 0
    assert found["kl"] > 0
    assert one.logged() == {}


def test_an_evaluation_loses_what_it_is_not_rewarded_with() -> None:
    model, examples = tiny.with_lora(tiny.base("llama")), prompts()
    one = objective(PaddingFree(True))
    samples = one.begin(model.eval(), examples, 100, CPU)
    found = torch.cat([one.scores(model, some, CPU) for some in one.cut(samples, 100)])
    rewards = [answers[0][1] for answers in rolled(examples, 1, False)]
    known = [reward for reward in rewards if not math.isnan(reward)]
    assert found[:, 2].sum() == len(known) == 3
    assert found[:, 0].sum() == pytest.approx(-sum(known), abs=1e-6)
    summary = one.summary(found[:, 3:])
    assert summary["eval_reward"] == pytest.approx(sum(known) / 3, abs=1e-6)
    assert summary["eval_reward_std"] == pytest.approx(torch.tensor(known).std().item(), abs=1e-6)
    assert set(summary) == {"eval_reward", "eval_reward_std", "eval_completion_length"}


def test_before_there_is_a_rollout_a_prompt_costs_what_its_samples_will() -> None:
    one = replace(objective(PaddingFree(True)), longest=20)
    (example,) = prompts(1)
    ((*samples,),) = one.cut([example], 10_000)
    assert [len(some.sequences[0].ids) for some in samples] == [len(example.ids) + 20] * COUNT
    assert len({some.advantage for some in samples}) == 2
    model = tiny.with_lora(tiny.base("llama"))
    with one.installed(model):
        assert one.loss(model, samples, CPU).requires_grad

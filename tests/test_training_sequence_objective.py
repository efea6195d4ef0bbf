"""DPO, written as a task would, is the textbook's: with each prompt computed once, and no pair cut into two."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Phi3Config

from peft_nb.events import StepLogged
from peft_nb.spec import RunSpec
from peft_nb.training import objectives, packing, prefix_tree
from peft_nb.training.draws import OwnDraws
from peft_nb.training.hooks import Hooks
from peft_nb.training.objectives import Padded, PaddingFree
from peft_nb.training.sequence_objective import Group, SequenceObjective
from peft_nb.training.stop import StopFlag
from peft_nb.training.trainer import PlannedTrainer
from tests import tiny

CPU = torch.device("cpu")
PATHS = [Padded(0), PaddingFree(False), PaddingFree(True)]
LN2 = 0.693147


@dataclass(frozen=True)
class DPO(SequenceObjective):
    """Direct preference optimisation (Rafailov et al., 2023, arXiv:2305.18290) against the base without adapter."""

    beta: float = 0.1

    def table(self, model: Any, groups: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Minus the log-probability that the chosen answer is preferred."""
        return -F.logsigmoid(self.margins(model, groups, device))[:, None]

    def margins(self, model: Any, groups: Sequence[Any], device: torch.device) -> torch.Tensor:
        """How much the adapter raises the chosen answer over the rejected one, times beta."""
        with torch.no_grad(), model.disable_adapter():
            before = self.preferred(model, groups, device)
        return self.beta * (self.preferred(model, groups, device) - before)

    def preferred(self, model: Any, groups: Sequence[Any], device: torch.device) -> torch.Tensor:
        """Log-probability of each chosen answer minus that of the rejected one."""
        found = self.log_probs(model, groups, device)
        return torch.stack([chosen.sum() - rejected.sum() for chosen, rejected in found])


def groups(count: int = 4, members: int = 2, seed: int = 0, system: int = 0) -> list[Group]:
    """Answers to prompts, which are supervised; prompts may begin with so many tokens alike."""
    draw = random.Random(seed)

    def text(length: int) -> list[int]:
        return [draw.randrange(3, tiny.VOCABULARY) for _ in range(length)]

    begun, made = text(system), []
    for _ in range(count):
        prompt = begun + text(draw.randrange(8, 20))
        answers = [text(draw.randrange(1, 12)) for _ in range(members)]
        supervised = [[False] * len(prompt) + [True] * len(one) for one in answers]
        made.append(Group(tuple(tiny.Tokens(prompt + one, on) for one, on in zip(answers, supervised, strict=True))))
    return made


def fresh(family: str) -> Any:
    """A model whose adapter changes nothing yet."""
    model = tiny.with_lora(tiny.base(family))
    for name, one in model.named_parameters():
        if "lora_B" in name:
            one.data.zero_()
    return model


def textbook(model: Any, pairs: Sequence[Group], beta: float = 0.1) -> torch.Tensor:
    """The same loss by padded rows and all of their logits."""

    def sums(side: int) -> torch.Tensor:
        rows = packing.pad([pair.sequences[side] for pair in pairs], 0)
        labels = rows.pop("labels")[:, 1:]
        scores = model(**rows).logits[:, :-1].log_softmax(-1)
        return (scores.gather(2, labels.clamp(min=0)[..., None])[..., 0] * (labels != packing.IGNORE)).sum(1)

    with torch.no_grad(), model.disable_adapter():
        before = sums(0) - sums(1)
    return -F.logsigmoid(beta * (sums(0) - sums(1) - before)).sum()


def gradient(model: Any) -> torch.Tensor:
    found = torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])
    model.zero_grad()
    return found


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("path", PATHS, ids=str)
def test_loss_and_gradient_are_the_textbooks(family: str, path: Any) -> None:
    model, pairs, dpo = tiny.with_lora(tiny.base(family)), groups(), DPO(path)
    wanted = textbook(model, pairs)
    wanted.backward()
    expected = gradient(model)
    with dpo.installed(model):
        loss = dpo.loss(model, pairs, CPU)
        loss.backward()
        scores = dpo.scores(model, pairs, CPU)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
    assert abs(loss.item() / len(pairs) - LN2) > 1e-3  # or it would say nothing
    assert (gradient(model) - expected).norm() < 1e-4 * expected.norm()
    assert scores[:, 0].sum().item() == pytest.approx(wanted.item(), rel=1e-5)
    assert scores[:, 1].isnan().all()
    assert scores[:, 2].sum() == dpo.targets(pairs) == len(pairs)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_a_fresh_adapter_has_no_margin_and_learns_one(path: Any, tmp_path: Path) -> None:
    model, pairs, dpo, heard = fresh("llama"), groups(8), DPO(path), list[Any]()
    spec = RunSpec(data="x", batch_size=4, learning_rate=1e-2, token_budget=60, device="cpu", logging_steps=1)
    steps = [[0, 1, 2, 3], [4, 5, 6, 7]] * 4
    told = heard.append, StopFlag(), "cpu", Hooks(), OwnDraws(0)
    trainer = PlannedTrainer(model, spec, dpo, pairs, pairs, steps, tmp_path, *told)
    with dpo.installed(model):
        assert dpo.margins(model, pairs, CPU).abs().max() < 1e-5
        assert trainer.measured()["eval_loss"] == pytest.approx(LN2, abs=1e-5)
        trainer.train()
        assert trainer.measured()["eval_loss"] < 0.9 * LN2
        assert (dpo.margins(model, pairs, CPU) > 0).sum() >= 7
    losses = [event.loss for event in heard if isinstance(event, StepLogged)]
    assert losses[0] == pytest.approx(LN2, abs=1e-5)
    assert losses[-1] < losses[0]
    assert trainer.tokens == 4 * sum(one.cost for one in pairs)


def test_a_prompt_is_computed_once_for_all_of_its_answers() -> None:
    model, samples = tiny.with_lora(tiny.base("llama")), groups(3, members=4)
    path, seen = PaddingFree(True), list[int]()
    model.get_input_embeddings().register_forward_pre_hook(lambda module, given: seen.append(given[0].numel()))
    prompts, answers = zip(
        *((one.supervised.index(True), sum(one.supervised)) for group in samples for one in group.sequences),
        strict=True,
    )
    with path.installed(model):
        found = DPO(path).log_probs(model, samples, CPU)
    assert seen == [sum(one.cost for one in samples)]
    assert seen[0] <= sum(prompts[::4]) + sum(answers)
    assert [len(one) for group in found for one in group] == list(answers)
    for group, wanted in zip(found, samples, strict=True):
        torch.testing.assert_close(group, Padded(0).log_probs(model, wanted.sequences, CPU), rtol=1e-5, atol=1e-5)


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 9), st.sampled_from([0, 20]), st.integers(1, 200))
def test_no_group_is_cut_and_none_is_lost(count: int, members: int, seed: int, system: int, budget: int) -> None:
    batch = groups(count, members, seed, system)
    for path in PATHS:
        cut = DPO(path).cut(batch, budget)
        assert sorted(map(id, batch)) == sorted(id(one) for micro in cut for one in micro)
        for micro in cut:
            rows = [one for group in micro for one in group.sequences]
            tokens = packing.pack(rows, path.share_prefix).input_ids if not path.padded else packing.pad(rows, 0)
            laid_out = tokens.numel() if torch.is_tensor(tokens) else tokens["input_ids"].numel()
            assert laid_out <= budget or len(micro) == 1


def test_groups_that_begin_alike_lie_together() -> None:
    batch = [one for few in zip(*(groups(3, seed=seed, system=30) for seed in range(3)), strict=True) for one in few]
    cut = DPO(PaddingFree(True)).cut(batch, 30 + 3 * (19 + 2 * 11))
    assert len(cut) == 3
    assert all(len({tuple(one.sequences[0].ids[:30]) for one in micro}) == 1 for micro in cut)
    assert sum(prefix_tree.tokens([row for one in micro for row in one.sequences]) for micro in cut) < sum(
        one.cost for one in batch
    )


def test_a_group_of_short_and_long_sequences_is_computed_by_the_positions_of_each() -> None:
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, **factors}
    reach = {
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 16,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    config = Phi3Config(**tiny.GROUPED, **reach, rope_parameters=rope, initializer_range=0.2)
    torch.manual_seed(0)
    model = tiny.with_lora(AutoModelForCausalLM.from_config(config).requires_grad_(False).eval())
    short, long = (tiny.Tokens(list(range(3, 3 + n)), [place > 7 for place in range(n)]) for n in (12, 30))
    path = objectives.choose(model, [short, long], 0, CPU, fast=True, supported=True)
    assert path.short == 16
    with path.installed(model), torch.no_grad():
        ((first, second),) = DPO(path).log_probs(model, [Group((short, long))], CPU)
    for found, one in ((first, short), (second, long)):
        torch.testing.assert_close(found, *Padded(0).log_probs(model, [one], CPU), rtol=1e-4, atol=1e-4)

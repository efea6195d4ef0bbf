"""Advantages, losses and gradients of GRPO are those that TRL's own trainer computes on the samples that it drew."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from peft_nb.training.group_losses import LOSSES, Samples, advantages, divergence, grpo
from peft_nb.training.objectives import PaddingFree
from tests import tiny

CPU = torch.device("cpu")
GENERATIONS, PROMPTS, LONGEST = 4, 3, 9
REWARDS: list[float | None] = [0.0, 1.0, 0.5, 0.2, 1.0, None, 0.0, 3.0, 0.7, 0.7, 0.7, 0.7]


def rewarded(completions: list[str], **_: Any) -> list[float | None]:
    """Rewards that were chosen: one is missing, the last prompt's are all the same."""
    return REWARDS[: len(completions)]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> GRPOTrainer:
    words = {"<pad>": 0, "<unk>": 1, "</s>": 2, **{f"w{token}": token for token in range(3, tiny.VOCABULARY)}}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    draw = random.Random(0)
    prompts = [" ".join(f"w{draw.randrange(3, 96)}" for _ in range(draw.randrange(3, 9))) for _ in range(PROMPTS)]
    config = GRPOConfig(
        str(tmp_path_factory.mktemp("grpo")),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        per_device_train_batch_size=PROMPTS * GENERATIONS,
        num_generations=GENERATIONS,
        max_completion_length=LONGEST,
        beta=0.1,
    )
    model, lora = tiny.base("llama"), tiny.with_lora(tiny.base("llama")).peft_config["default"]
    made = GRPOTrainer(
        model, rewarded, config, Dataset.from_dict({"prompt": prompts}), processing_class=tokenizer, peft_config=lora
    )
    made.model.load_state_dict(tiny.with_lora(tiny.base("llama")).state_dict())
    made.current_gradient_accumulation_steps = 1  # which it sets when it trains
    made.model.train()
    return made


@pytest.fixture(scope="module")
def drawn(trainer: GRPOTrainer) -> dict[str, Any]:
    """Samples of the tiny model, of which some end early, with the log-probabilities of another that wrote them."""
    torch.manual_seed(1)
    rows = [row for row in trainer.train_dataset for _ in range(GENERATIONS)]
    found = trainer._generate_and_score_completions(rows)
    lengths = torch.tensor([9, 2, 5, 9, 1, 3, 9, 4, 6, 2, 7, 9])
    found["completion_mask"] = (torch.arange(LONGEST) < lengths[:, None]).int()
    return {**found, "num_items_in_batch": lengths.sum()}


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    found = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    return found


def flat(padded: Tensor, drawn: dict[str, Any]) -> Tensor:
    return padded[drawn["completion_mask"].bool()]


def policy(model: Any, drawn: dict[str, Any]) -> Tensor:
    """Log-probability of each token of all samples by the engine, each prompt computed once."""
    sequences = []
    for prompt, there, completion, kept in zip(
        *(drawn[name] for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")), strict=True
    ):
        asked, said = prompt[there.bool()].tolist(), completion[kept.bool()].tolist()
        sequences.append(tiny.Tokens(asked + said, [False] * len(asked) + [True] * len(said)))
    path = PaddingFree(True)
    with path.installed(model):
        return torch.cat(path.log_probs(model, sequences, CPU))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_those_of_trl(trainer: GRPOTrainer, scale: Any) -> None:
    trainer.scale_rewards = scale
    rows = [row for row in trainer.train_dataset for _ in range(GENERATIONS)]
    wanted = trainer._generate_and_score_completions(rows)["advantages"]
    given = torch.tensor([torch.nan if one is None else one for one in REWARDS]).view(PROMPTS, GENERATIONS)
    found = advantages(given, scale_rewards=scale)
    torch.testing.assert_close(found.flatten(), wanted, rtol=1e-4, atol=1e-5)
    assert found[1, 1] == 0
    assert found[2].abs().max() < 1e-3
    assert found[0].sum().abs() < 1e-5


@pytest.mark.parametrize("high", [None, 0.28])
@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_losses_and_gradients_are_those_of_trl(
    trainer: GRPOTrainer, drawn: dict[str, Any], loss_type: str, moved: bool, beta: float, high: float | None
) -> None:
    trainer.loss_type, trainer.beta, trainer.epsilon_high = loss_type, beta, 0.2 if high is None else high
    model = tiny.with_lora(tiny.base("llama"))
    given = dict(drawn)
    if moved:  # since the samples were drawn
        noise = torch.randn(PROMPTS * GENERATIONS, LONGEST, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            ids = (
                torch.cat([given[f"{part}_{name}"] for part in ("prompt", "completion")], 1) for name in ("ids", "mask")
            )
            now = trainer._get_per_token_logps_and_entropies(trainer.model, *ids, LONGEST)[0]
        given["old_per_token_logps"] = now + 0.3 * noise
    wanted = trainer.compute_loss(trainer.model, given)
    wanted.backward()
    expected = gradients(trainer.model)

    tokens = given["completion_mask"].sum(1)
    sampled = flat(given["old_per_token_logps"], given) if moved else None
    reference = flat(given["ref_per_token_logps"], given)
    samples = Samples(policy(model, given), tokens, given["advantages"], sampled, reference)
    how: dict[str, Any] = {"loss_type": loss_type, "beta": beta, "epsilon_high": high, "max_completion_length": LONGEST}
    losses = grpo(samples, mean_tokens=tokens.float().mean().item(), **how)
    losses.mean().backward()
    assert losses.shape == (PROMPTS * GENERATIONS,)
    assert losses.mean().item() == pytest.approx(wanted.item(), rel=1e-4, abs=1e-6)
    found = gradients(model)
    for name, gradient in expected.items():
        assert gradient.norm() > 0
        assert (found[name] - gradient).norm() < 1e-4 * gradient.norm(), name


@pytest.mark.parametrize("loss_type", LOSSES)
def test_a_sample_has_the_same_loss_in_any_micro_batch(loss_type: str) -> None:
    torch.manual_seed(0)
    lengths, numbers = torch.tensor([3, 1, 4]), [-torch.rand(8) for _ in range(3)]
    whole = Samples(numbers[0], lengths, torch.tensor([1.0, -1.0, 0.5]), *numbers[1:])
    parts = [
        Samples(whole.policy[rows], lengths[some], whole.advantages[some], *(one[rows] for one in numbers[1:]))
        for rows, some in ((slice(0, 4), slice(0, 2)), (slice(4, 8), slice(2, 3)))
    ]
    how: dict[str, Any] = {"loss_type": loss_type, "beta": 0.1, "mean_tokens": 8 / 3, "max_completion_length": 6}
    torch.testing.assert_close(torch.cat([grpo(one, **how) for one in parts]), grpo(whole, **how))


def test_the_divergence_is_nothing_from_itself_and_never_negative() -> None:
    here, there = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.0, -1.0, -5.0])
    assert divergence(here, there).tolist() == pytest.approx([0, torch.e - 2, 1 + torch.e**-2])


def test_a_reward_alone_of_its_prompt_teaches_nothing() -> None:
    alone = torch.tensor([[torch.nan, 2.0, torch.nan], [torch.nan] * 3])
    for scale in ("group", "batch", "none"):
        assert advantages(alone, scale_rewards=scale).tolist() == [[0.0] * 3] * 2


def test_every_type_of_loss_names_its_paper() -> None:
    assert all(one.source.partition(", arXiv:")[2] for one in LOSSES.values())

"""Losses, rewards, margins and gradients of preferences are those that TRL's own trainers compute on the same tokens.

Ours go through the engine, each prompt computed once and no logits kept. Where TRL is not what the paper says, a test
says how, and takes what both agree on or writes the paper out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from peft_nb.training.objectives import PaddingFree
from peft_nb.training.preference_losses import LOSSES, Answers, dpo, kto, orpo, problems, rewards, simpo
from tests import tiny

CPU = torch.device("cpu")
LN2 = 0.693147
QUIET = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no"}
ROWS = 5


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word: ``w3`` and its like, and the end."""
    words = {"<pad>": 0, "<unk>": 1, "</s>": 2, **{f"w{token}": token for token in range(3, tiny.VOCABULARY)}}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def texts(prompt: int | None = None, seed: int = 0) -> list[dict[str, str]]:
    """Prompts with two answers each, of unequal lengths."""
    draw = random.Random(seed)

    def words(count: int) -> str:
        return "".join(f" w{draw.randrange(3, tiny.VOCABULARY)}" for _ in range(count))

    return [
        {
            "prompt": words(prompt or draw.randrange(3, 15)).strip(),
            "chosen": words(draw.randrange(1, 9)),
            "rejected": words(draw.randrange(3, 14)),
        }
        for _ in range(ROWS)
    ]


def rated() -> list[dict[str, Any]]:
    """The same prompts with one answer each, of which two are desirable."""
    return [
        {"prompt": row["prompt"], "completion": row["chosen" if good else "rejected"], "label": good}
        for row, good in zip(texts(), (True, False, False, True, False), strict=True)
    ]


def policy() -> PeftModel:
    """A model that has moved away from its reference, which is itself with the adapter off."""
    return tiny.with_lora(tiny.base("llama"))


def ready(trainer: Any) -> Any:
    """Give the trainer's model the weights of ours."""
    trainer.model.load_state_dict(policy().state_dict())
    trainer.model.train()
    return trainer


@pytest.fixture(scope="module")
def dpo_trainer(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> DPOTrainer:
    config = DPOConfig(str(tmp_path_factory.mktemp("dpo")), **QUIET)
    lora = policy().peft_config["default"]
    rows = Dataset.from_list(texts())
    return ready(DPOTrainer(tiny.base("llama"), None, config, None, rows, processing_class=tokenizer, peft_config=lora))


@pytest.fixture(scope="module")
def cpo_trainer(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> CPOTrainer:
    config = CPOConfig(str(tmp_path_factory.mktemp("cpo")), loss_type="simpo", cpo_alpha=0.0, **QUIET)
    return ready(CPOTrainer(policy(), config, None, Dataset.from_list(texts()), processing_class=tokenizer))


@pytest.fixture(scope="module")
def orpo_trainer(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> ORPOTrainer:
    config = ORPOConfig(str(tmp_path_factory.mktemp("orpo")), **QUIET)
    return ready(ORPOTrainer(policy(), config, None, Dataset.from_list(texts(1)), processing_class=tokenizer))


@pytest.fixture(scope="module")
def kto_trainer(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> KTOTrainer:
    config = KTOConfig(str(tmp_path_factory.mktemp("kto")), per_device_train_batch_size=ROWS, **QUIET)
    lora = policy().peft_config["default"]
    rows = Dataset.from_list(rated())
    return ready(KTOTrainer(tiny.base("llama"), None, config, None, rows, processing_class=tokenizer, peft_config=lora))


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    """Take the gradients off a model."""
    found = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    return found


Found = tuple[float, dict[str, Tensor], dict[str, float]]


def theirs(trainer: Any, rows: range = range(ROWS)) -> tuple[Found, Mapping[str, Tensor]]:
    """Loss, gradients and what is logged of one batch of a trainer, and the batch."""
    dataset = trainer.train_dataset
    batch = trainer.data_collator([dataset[row] for row in rows])
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    logs = {"loss": loss.item()}
    trainer.log(logs)
    return (loss.item(), gradients(trainer.model), logs), batch


def sums(model: PeftModel, ids: Tensor, mask: Tensor, supervised: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of padded answers by the engine, and their tokens."""
    sequences = [
        tiny.Tokens(row[here].tolist(), on[here].bool().tolist())
        for row, here, on in zip(ids, mask.bool(), supervised, strict=True)
    ]
    path = PaddingFree(True)
    with path.installed(model):
        found = path.log_probs(model, sequences, CPU)
    return torch.stack([one.sum() for one in found]), torch.tensor([len(one) for one in found])


def answers(model: PeftModel, batch: Mapping[str, Tensor], reference: bool = True) -> Answers:
    """What ours takes, of a batch of DPO or of CPO and ORPO."""
    if "input_ids" in batch:
        given = batch["input_ids"], batch["attention_mask"], batch["completion_mask"]
        (chosen, rejected), (chosen_tokens, rejected_tokens) = (one.chunk(2) for one in sums(model, *given))
    else:
        (chosen, chosen_tokens), (rejected, rejected_tokens) = (
            sums(model, batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"], batch[f"{side}_labels"] != -100)
            for side in ("chosen", "rejected")
        )
    if not reference:
        return Answers(chosen, rejected, chosen_tokens, rejected_tokens)
    with torch.no_grad(), model.disable_adapter():
        before = answers(model, batch, reference=False)
    return Answers(chosen, rejected, chosen_tokens, rejected_tokens, before.chosen, before.rejected)


def same(found: Found, wanted: Found) -> None:
    """Loss, every gradient and everything logged agree to one in ten thousand."""
    assert found[0] == pytest.approx(wanted[0], rel=1e-4)
    assert found[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        assert gradient.norm() > 0
        assert (found[1][name] - gradient).norm() < 1e-4 * gradient.norm(), name
    assert found[2] == pytest.approx({name: wanted[2][name] for name in found[2]}, rel=1e-4, abs=1e-6)


def ours(model: PeftModel, found: Answers, losses: Tensor, beta: float) -> Found:
    """Loss, gradients and what is to be logged of a batch of pairs."""
    losses.mean().backward()
    given = rewards(found, beta=beta)
    logs = {"chosen": given.chosen, "rejected": given.rejected, "margins": given.margin, "accuracies": given.accuracy}
    return losses.mean().item(), gradients(model), {f"rewards/{name}": one.mean().item() for name, one in logs.items()}


OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"loss_type": name} for name in LOSSES if name not in ("exo_pair", "sft")},
    "robust, smoothed": {"loss_type": "robust", "label_smoothing": 0.1},
    "exo_pair": {"loss_type": "exo_pair", "label_smoothing": 1e-3},
    "several": {"loss_type": ["sigmoid", "hinge"]},
    "several, weighed": {
        "loss_type": ["ipo", "apo_zero", "robust"],
        "loss_weights": [0.2, 1, 3],
        "label_smoothing": 0.2,
    },
}


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_dpo_is_that_of_trl(dpo_trainer: DPOTrainer, options: dict[str, Any], beta: float) -> None:
    types = [options["loss_type"]] if isinstance(options["loss_type"], str) else options["loss_type"]
    dpo_trainer.beta, dpo_trainer.loss_types = beta, types
    dpo_trainer.loss_weights = options.get("loss_weights", [1.0] * len(types))
    dpo_trainer.label_smoothing = options.get("label_smoothing", 0.0)
    wanted, batch = theirs(dpo_trainer)
    model = policy()
    found = answers(model, batch)
    assert len(set(found.chosen_tokens.tolist())) > 1
    same(ours(model, found, dpo(found, beta=beta, **options), beta), wanted)
    assert list(problems(**options)) == []


def test_sft_is_that_of_trl_for_one_pair_and_the_mean_of_such_for_several(dpo_trainer: DPOTrainer) -> None:
    """TRL takes the mean over the tokens of the whole batch, so that a pair counts by its length."""
    options: dict[str, Any] = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}
    dpo_trainer.beta, dpo_trainer.loss_types, dpo_trainer.loss_weights = 0.1, *options.values()
    dpo_trainer.label_smoothing = 0.0
    total = 0.0
    for row in range(ROWS):
        wanted, batch = theirs(dpo_trainer, range(row, row + 1))
        model = policy()
        found = answers(model, batch)
        same(ours(model, found, dpo(found, **options), 0.1), wanted)
        total += wanted[0]
    _, batch = theirs(dpo_trainer)
    assert dpo(answers(policy(), batch), **options).mean().item() == pytest.approx(total / ROWS, rel=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.0), (0.1, 0.5)])
def test_simpo_is_that_of_trl_without_its_supervised_part(
    cpo_trainer: CPOTrainer, beta: float, gamma: float, smoothing: float
) -> None:
    cpo_trainer.beta, cpo_trainer.simpo_gamma, cpo_trainer.label_smoothing = beta, gamma, smoothing
    wanted, batch = theirs(cpo_trainer)
    model = policy()
    found = answers(model, batch, reference=False)
    losses = simpo(found, beta=beta, simpo_gamma=gamma, label_smoothing=smoothing)
    same(ours(model, found, losses, beta), wanted)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_orpo_is_that_of_trl_where_a_prompt_has_nothing_to_learn(orpo_trainer: ORPOTrainer, beta: float) -> None:
    """TRL's supervised part is over the prompt too, all but its first token; here that is all there is of it."""
    orpo_trainer.beta = beta
    for row in range(ROWS):
        wanted, batch = theirs(orpo_trainer, range(row, row + 1))
        model = policy()
        found = answers(model, batch, reference=False)
        same(ours(model, found, orpo(found, beta=beta), beta), wanted)


def test_orpo_leaves_prompts_alone_and_odds_are_those_of_trl_for_any(
    cpo_trainer: CPOTrainer, orpo_trainer: ORPOTrainer
) -> None:
    """Rows with prompts: the paper's equations 6 and 7, and TRL's log odds ratio."""
    batch = cpo_trainer.data_collator([cpo_trainer.train_dataset[row] for row in range(ROWS)])
    _, logged = orpo_trainer.get_batch_loss_metrics(orpo_trainer.model, batch)
    found = answers(policy(), batch, reference=False)
    chosen, rejected = (
        (one / tokens).double().exp()
        for one, tokens in ((found.chosen, found.chosen_tokens), (found.rejected, found.rejected_tokens))
    )
    ratio = (chosen / (1 - chosen) / (rejected / (1 - rejected))).log().sigmoid().log()
    assert logged["log_odds_ratio"] == pytest.approx(ratio.mean().item(), rel=1e-4)
    assert logged["nll_loss"] != pytest.approx(-chosen.log().mean().item(), rel=1e-2)
    torch.testing.assert_close(orpo(found, beta=0.3).double(), -chosen.log() - 0.3 * ratio, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("beta", "desirable", "undesirable"), [(0.1, 1.0, 1.0), (0.5, 1.5, 0.7)])
def test_kto_is_that_of_trl(kto_trainer: KTOTrainer, beta: float, desirable: float, undesirable: float) -> None:
    kto_trainer.beta, kto_trainer.desirable_weight, kto_trainer.undesirable_weight = beta, desirable, undesirable
    wanted, batch = theirs(kto_trainer)
    model = policy()

    def log_probs(prefix: str = "") -> Tensor:
        return sums(model, *(batch[f"{prefix}{name}"] for name in ("input_ids", "attention_mask", "completion_mask")))[
            0
        ]

    now = log_probs()
    with torch.no_grad():
        other = log_probs("KL_")
        with model.disable_adapter():
            before, kl = log_probs(), (other - log_probs("KL_")).mean().item()
    good = batch["label"].bool()
    assert kl > 0
    losses = kto(now, before, good, kl, beta=beta, desirable_weight=desirable, undesirable_weight=undesirable)
    losses.mean().backward()
    gain = beta * (now - before).detach()
    logs = {"rewards/chosen": gain[good].mean().item(), "rewards/rejected": gain[~good].mean().item(), "kl": max(kl, 0)}
    same((losses.mean().item(), gradients(model), logs), wanted)


# ---- what does not need TRL


def some(n: int = 7, reference: bool = True) -> Answers:
    """Answers at random."""
    torch.manual_seed(0)
    numbers = [-30 * torch.rand(n) for _ in range(4)]
    tokens = [torch.randint(1, 30, (n,)) for _ in range(2)]
    return Answers(*numbers[:2], *tokens, *(numbers[2:] if reference else ()))


def cut(whole: Answers, rows: slice) -> Answers:
    return Answers(*(None if (one := getattr(whole, field.name)) is None else one[rows] for field in fields(whole)))


EACH: dict[str, Callable[[Answers], Tensor]] = {
    **{name: lambda one, name=name: dpo(one, loss_type=name, label_smoothing=0.1) for name in LOSSES},
    "simpo": simpo,
    "orpo": orpo,
}


@pytest.mark.parametrize("loss", EACH.values(), ids=EACH.keys())
def test_a_pair_has_the_same_loss_in_any_batch(loss: Callable[[Answers], Tensor]) -> None:
    whole = some()
    assert loss(whole).shape == (7,)
    torch.testing.assert_close(torch.cat([loss(cut(whole, slice(0, 3))), loss(cut(whole, slice(3, 7)))]), loss(whole))


@pytest.mark.parametrize("loss", EACH.values(), ids=EACH.keys())
@pytest.mark.parametrize("far", [0.0, 3000.0])
def test_certain_and_impossible_answers_have_finite_losses_and_gradients(
    loss: Callable[[Answers], Tensor], far: float
) -> None:
    for chosen, rejected in ((0.0, -far), (-far, 0.0)):
        given = [torch.tensor([one], requires_grad=True) for one in (chosen, rejected)]
        found = loss(Answers(*given, *[torch.ones(1)] * 2, *[torch.zeros(1)] * 2))
        assert found.isfinite().all()
        assert all(one.isfinite().all() for one in torch.autograd.grad(found.sum(), given, materialize_grads=True))


def test_dpo_begins_at_the_logarithm_of_two_without_a_margin() -> None:
    one = some()
    start = Answers(one.chosen, one.rejected, one.chosen_tokens, one.rejected_tokens, one.chosen, one.rejected)
    assert dpo(start).tolist() == pytest.approx([LN2] * 7, abs=1e-5)
    found = rewards(start, beta=0.1)
    assert found.margin.tolist() == [0.0] * 7
    assert found.accuracy.tolist() == [0.5] * 7  # nothing is known of them yet


def test_rewards_are_ratios_with_a_reference_and_means_without() -> None:
    one = Answers(*(torch.tensor([value]) for value in (-6.0, -9.0, 2.0, 3.0, -8.0, -5.0)))
    found = rewards(one, beta=0.5)
    assert (found.chosen.item(), found.rejected.item(), found.margin.item(), found.accuracy.item()) == (1, -2, 3, 1)
    bare = rewards(Answers(one.chosen, one.rejected, one.chosen_tokens, one.rejected_tokens), beta=0.5)
    assert (bare.chosen.item(), bare.rejected.item(), bare.accuracy.item()) == (-1.5, -1.5, 0.5)


def test_simpo_and_orpo_heed_no_reference() -> None:
    torch.testing.assert_close(simpo(some()), simpo(some(reference=False)))
    torch.testing.assert_close(orpo(some()), orpo(some(reference=False)))


def test_a_negative_estimate_of_the_divergence_counts_as_none() -> None:
    given = torch.tensor([-3.0, -4.0]), torch.tensor([-4.0, -3.0]), torch.tensor([True, False])
    torch.testing.assert_close(kto(*given, -3.0), kto(*given, 0.0))
    assert kto(*given, 0.0, beta=1.0).tolist() == pytest.approx([1 / (1 + torch.e)] * 2)
    assert kto(*given, 1.0, beta=1.0).tolist() == pytest.approx([0.5, 1 / (1 + torch.e**2)])


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"loss_type": "sigmoid"}, []),
        ({"loss_type": ["sigmoid", "robust"], "label_smoothing": 0.1}, []),
        ({"loss_type": []}, ["loss_type: names no loss; give one or several of sigmoid, hinge, ipo"]),
        ({"loss_type": "simgoid"}, ["loss_type: simgoid is not one of sigmoid, hinge, ipo"]),
        (
            {"loss_type": ["ipo", "ipo"]},
            ["loss_type: names a loss twice; give each once, and its share in loss_weights"],
        ),
        (
            {"loss_type": ["ipo", "hinge"], "loss_weights": [1.0]},
            ["loss_weights: 1 for 2 of loss_type; give one for each"],
        ),
        (
            {"loss_type": ["ipo", "hinge"], "loss_weights": [1.0, -1.0]},
            ["loss_weights: [1.0, -1.0] would not lower the loss; give numbers from 0, one of them above it"],
        ),
        ({"loss_type": "ipo", "loss_weights": [0.0]}, ["loss_weights: [0.0] would not lower the loss;"]),
        (
            {"loss_type": "robust", "label_smoothing": 0.5},
            ["label_smoothing: 0.5 is no share of wrong labels; give one from 0 to below 0.5"],
        ),
        (
            {"loss_type": "sigmoid", "label_smoothing": 0.1},
            ["label_smoothing: changes nothing with loss_type sigmoid; take robust or exo_pair, or leave it out"],
        ),
        ({"loss_type": "exo_pair"}, ["label_smoothing: loss_type exo_pair needs one above 0, such as 0.001"]),
    ],
)
def test_options_that_do_not_fit_are_named(options: dict[str, Any], wrong: list[str]) -> None:
    found = list(problems(**options))
    assert len(found) == len(wrong)
    assert all(map(str.startswith, found, wrong))


def test_every_type_of_loss_names_its_paper() -> None:
    assert all(one.source.partition(", arXiv:")[2] for one in LOSSES.values())

"""Two ways from labelled texts to their loss, and one result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    ModernBertConfig,
    PreTrainedConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from peft_nb.data.examples import Example
from peft_nb.methods import attach
from peft_nb.models import head as heads
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from peft_nb.spec import RunSpec
from peft_nb.tasks import TASKS
from peft_nb.training import objectives, text_objective
from peft_nb.training.text_objective import TextObjective
from tests import tiny

CPU = torch.device("cpu")
SPEC = RunSpec(data="x", task="classification", r=4)
KINDS = {False: "single_label_classification", True: "multi_label_classification"}
LOSS = {multi: TASKS["classification"].head_loss({"multi_label": multi}) for multi in (False, True)}


def adapted(folder: Path, multi: bool = False, dtype: str = "float32") -> torch.nn.Module:
    """A classifier with LoRA whose B is not zero, so that every gradient has something to say."""
    torch.manual_seed(0)
    bare, new = heads.build(load(resolve(str(folder)), kind=None, dtype=dtype), ("a", "b", "c"), KINDS[multi])
    model = attach(bare, SPEC, "base", new, peft_type="SEQ_CLS").eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def examples(multi: bool = False) -> list[Example]:
    texts = [[2, 5, 6, 3], [2, 7, 3], [2, 9, 10, 11, 12, 5, 3], [2, 6, 6, 8, 3]]
    own = [(0, 2), (), (1,), (0, 1, 2)] if multi else [(0,), (2,), (1,), (2,)]
    return [Example.whole(ids, labels) for ids, labels in zip(texts, own, strict=True)]


@pytest.fixture(params=["encoder", "plain_encoder", "base"])
def folder(request: pytest.FixtureRequest) -> Path:
    """Mean pooling, transformers' head on an encoder, and on a causal model."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("multi", [False, True])
def test_without_padding_the_losses_and_gradients_are_the_same(folder: Path, multi: bool) -> None:
    model = adapted(folder, multi)
    padded = TextObjective(0, LOSS[multi])
    loss, gradient = objectives.disagreement(model, replace(padded, padded=False), padded, examples(multi), CPU)
    assert loss < 1e-5
    assert gradient < 1e-4


def test_each_text_is_judged_as_if_it_were_alone(folder: Path) -> None:
    model, path = adapted(folder), TextObjective(0, LOSS[False], padded=False)
    with path.installed(model), torch.no_grad():
        together = path.logits(model, examples(), CPU)
        alone = torch.cat([path.logits(model, [one], CPU) for one in examples()])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("multi", [False, True])
def test_a_step_waits_for_no_number_of_the_device(folder: Path, multi: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "equal", lambda one, other: True)  # asked before the steps, and not of these
    model = adapted(folder, multi)
    path, meta = TextObjective(0, LOSS[multi], padded=False), torch.device("meta")
    with path.installed(model.to(meta)):  # where there are no numbers that one could wait for
        path.loss(model, examples(multi), meta).backward()


def test_a_wrapper_that_makes_other_tensors_changes_nothing(folder: Path) -> None:
    model, path = adapted(folder), TextObjective(0, LOSS[False], padded=False)

    def copied(**inputs: torch.Tensor) -> torch.Tensor:
        return model(**{name: one.clone() for name, one in inputs.items()})

    with path.installed(model), torch.no_grad():
        wanted = path.logits(model, examples(), CPU)
        assert torch.equal(path.logits(copied, examples(), CPU), wanted)  # type: ignore[arg-type]


def test_where_a_gpu_would_take_text_by_text_they_are_padded(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def unserved(*given: Any, **named: Any) -> str:
        asked.append(named)
        return "attention weights are dropped at random"

    monkeypatch.setattr(text_objective.gpu_attention, "unserved", unserved)
    found = text_objective.choose(adapted(encoder), examples(), 0, CPU, LOSS[False], fast=True, supported=True)
    assert str(found) == "padded (attention weights are dropped at random)"
    assert asked == [{"tree": False}]  # texts have no prefix in common that would need more of the kernels


def test_the_check_finds_a_text_that_sees_another(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, wanted = adapted(encoder), {"fast": True, "supported": True}
    assert str(text_objective.choose(model, examples(), 0, CPU, LOSS[False], **wanted)) == "padding-free"
    inner = text_objective.attention.segment_attention
    whole = lambda *a, segments, **options: inner(*a, segments=[sum(segments)], **options)  # noqa: E731
    monkeypatch.setitem(text_objective.attention.AttentionInterface._global_mapping, "peft_nb_segments", whole)
    chosen = str(text_objective.choose(model, examples(), 0, CPU, LOSS[False], **wanted))
    assert chosen.startswith("padded (the padding-free path differed on a few examples")


def test_a_base_that_looks_one_way_only_would_be_found(encoder: Path) -> None:
    model = adapted(encoder)
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = True  # stock attention has a mask for both ways and would still look both ways
    chosen = text_objective.choose(model, examples(), 0, CPU, LOSS[False], fast=True, supported=True)
    assert chosen.padded == ("differed" in chosen.reason)
    assert chosen.padded


@pytest.mark.parametrize(
    ("fast", "supported", "reason"),
    [(False, True, "fast is off"), (True, False, "the method adds virtual tokens")],
)
def test_the_padded_path_says_why(encoder: Path, fast: bool, supported: bool, reason: str) -> None:
    chosen = text_objective.choose(adapted(encoder), examples(), 0, CPU, LOSS[False], fast=fast, supported=supported)
    assert (chosen.padded, str(chosen)) == (True, f"padded ({reason})")


def test_losses_are_sums_of_transformers_own(base: Path) -> None:
    for multi in (False, True):
        model, some = adapted(base, multi), examples(multi)
        path = TextObjective(0, LOSS[multi])
        logits = path.logits(model, some, CPU)
        if multi:
            wanted = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])
            stock = F.binary_cross_entropy_with_logits(logits, wanted)
        else:
            stock = F.cross_entropy(logits, torch.tensor([0, 2, 1, 2]))
        torch.testing.assert_close(path.loss(model, some, CPU) / path.targets(some), stock)


def test_the_model_is_as_before_when_the_context_ends(encoder: Path) -> None:
    model = adapted(encoder)
    before = TextObjective(0, LOSS[False]).logits(model, examples(), CPU)
    with TextObjective(0, LOSS[False], padded=False).installed(model):
        pass
    assert torch.equal(TextObjective(0, LOSS[False]).logits(model, examples(), CPU), before)


def test_bfloat16_takes_the_fast_path_too(encoder: Path) -> None:
    model = adapted(encoder, dtype="bfloat16")
    chosen = text_objective.choose(model, examples(), 0, CPU, LOSS[False], fast=True, supported=True)
    assert str(chosen) == "padding-free"


@pytest.mark.parametrize("config", [RobertaConfig, XLMRobertaConfig, ModernBertConfig], ids=lambda one: one.model_type)
def test_positions_and_windows_are_the_models_own(config: type[PreTrainedConfig]) -> None:
    torch.manual_seed(0)
    window = {"local_attention": 6} if config is ModernBertConfig else {}
    none = {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
    bare = AutoModelForSequenceClassification.from_config(
        config(**tiny.WIDE, **none, **window, pad_token_id=1, num_labels=3, initializer_range=0.2)
    )
    names = LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS", init_lora_weights=False)
    model = get_peft_model(bare.requires_grad_(False), names).eval()
    texts = [Example.whole(one.ids, (number % 3,)) for number, one in enumerate(tiny.examples(4))]
    chosen = text_objective.choose(model, texts, 1, CPU, LOSS[False], fast=True, supported=True)
    assert str(chosen) == "padding-free"
    padded = replace(chosen, padded=True)
    assert max(objectives.disagreement(model, chosen, padded, [*texts, Example.whole([5, 1, 6], (0,))], CPU)) < 1e-4

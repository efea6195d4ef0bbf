"""Full fine-tuning as an adapter: the same training as in plain PyTorch, and the base never notices."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GptOssConfig,
    GptOssForCausalLM,
    PreTrainedModel,
)

from peft_nb.data.examples import Example
from peft_nb.errors import MethodError
from peft_nb.methods import attach
from peft_nb.methods.full import config_class
from peft_nb.methods.full.layer import FullLayer
from peft_nb.methods.full.model import FullConfig
from peft_nb.models.share import share
from peft_nb.runs.run import Run, load
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from peft_nb.tasks import TASKS
from peft_nb.training import objectives, text_objective
from peft_nb.training.objectives import Padded, PaddingFree
from tests import tiny
from tests.conftest import stop_at

pytestmark = pytest.mark.exhaustive

CPU = torch.device("cpu")
IDS = torch.arange(3, 27).reshape(2, 12)
TIED = {"tie_word_embeddings": True}
HEADLESS = "(?!lm_head|embed_out).*"  # every name but the output head's
# Families whose output head the padding-free path can take, once it is a weight of its own.
FITTING = [family for family in tiny.FAMILIES if family != "gemma2"]


def full(model: nn.Module, **options: object) -> PeftModel:
    return get_peft_model(share(model), FullConfig(task_type="CAUSAL_LM", **options))


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def train(model: nn.Module, steps: int = 3, rate: float = 1e-3) -> list[float]:
    """Losses of some AdamW steps on whatever is trainable."""
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=rate, weight_decay=0.1)
    losses = []
    for _ in range(steps):
        loss = model(IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    after = model.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def memory(*models: nn.Module) -> int:
    """Bytes of all parameters, each piece of memory counted once."""
    tensors = [one for model in models for one in model.parameters()]
    return sum({one.data_ptr(): one.nbytes for one in tensors}.values())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_training_is_that_of_plain_pytorch(family: str) -> None:
    base = tiny.base(family)
    plain, before = copy.deepcopy(base).requires_grad_(True), values(base)
    adapted = full(base)
    assert torch.equal(logits(adapted), logits(base))
    trainable, _ = adapted.get_nb_trainable_parameters()
    assert trainable == sum(one.numel() for one in plain.parameters())
    assert memory(base, adapted) == 2 * memory(base)

    expected, losses = train(plain), train(adapted)
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=0)
    assert losses[-1] < losses[0]
    torch.testing.assert_close(logits(adapted), logits(plain), rtol=1e-5, atol=1e-5)
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted), logits(base))
    assert same(base, before)

    tuned = logits(adapted)
    merged = adapted.merge_and_unload()
    assert not any(isinstance(module, FullLayer) for module in merged.modules())
    torch.testing.assert_close(logits(merged), tuned, rtol=1e-6, atol=1e-6)
    assert merged.state_dict().keys() == before.keys()
    assert memory(merged) == memory(base)
    assert {*map(id, merged.parameters())}.isdisjoint(map(id, base.parameters()))
    assert same(base, before)


@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2"])
def test_tied_weights_are_one_weight(family: str) -> None:
    base = tiny.base(family, **TIED)
    adapted = full(base)
    head, words = adapted.get_output_embeddings(), adapted.get_input_embeddings()
    assert head.weight is words.weight
    adapted.get_base_model().tie_weights()
    assert head.weight is words.weight
    with pytest.raises(MethodError, match="cannot be replaced"):
        head.weight = nn.Parameter(torch.zeros_like(words.weight))
    train(adapted)
    merged = adapted.merge_and_unload()
    assert merged.lm_head.weight is merged.get_input_embeddings().weight
    assert merged.config.tie_word_embeddings
    assert not torch.equal(merged.lm_head.weight, base.lm_head.weight)


@pytest.mark.parametrize("only", [["lm_head"], ["embed_tokens"]])
def test_training_either_end_of_a_tie_trains_both(only: list[str], recwarn: pytest.WarningsRecorder) -> None:
    base = tiny.base("llama", **TIED)
    adapted = full(base, target_modules=only)
    plain = copy.deepcopy(base)
    plain.lm_head.weight.requires_grad_(True)
    assert train(adapted) == pytest.approx(train(plain), rel=1e-6)
    torch.testing.assert_close(logits(adapted.merge_and_unload()), logits(plain), rtol=1e-5, atol=1e-5)
    assert not [one for one in recwarn if "tie" in str(one.message)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_copies_of_a_16_bit_base_are_float32(dtype: torch.dtype) -> None:
    base = tiny.base("llama", initializer_range=0.05, **TIED).to(dtype)
    adapted = full(base)
    assert torch.equal(logits(adapted), logits(base))
    assert {one.dtype for one in adapted.parameters() if one.requires_grad} == {torch.float32}
    assert adapted.get_input_embeddings().weight.dtype == dtype
    losses = train(adapted, rate=1e-4)
    assert losses[-1] < losses[0]
    tuned = logits(adapted)
    assert tuned.dtype == dtype
    assert not torch.equal(tuned, logits(base))
    merged = adapted.merge_and_unload()
    assert {one.dtype for one in merged.parameters()} == {dtype}
    assert torch.equal(logits(merged), tuned)
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


def test_a_saved_adapter_gives_the_same_outputs_in_a_new_process(tmp_path: Path) -> None:
    for family in ("llama", "gpt2"):
        base = tiny.base(family, **TIED)
        adapted = full(base)
        train(adapted)
        folder = tmp_path / family
        adapted.save_pretrained(folder)
        assert (folder / "adapter_model.safetensors").stat().st_size < memory(base) + 10_000  # a tie is written once
        torch.save({"base": base, "logits": logits(adapted)}, folder / "expected")
    done = subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


LOAD = """
import sys, torch, peft
from pathlib import Path
from peft_nb.methods.full import config_class
from peft_nb.models.share import share
config_class()
config_class()
for folder in Path(sys.argv[1]).iterdir():
    expected = torch.load(folder / "expected", weights_only=False)
    base = expected["base"]
    before = {name: one.clone() for name, one in base.state_dict().items()}
    for lean in (False, True):
        model = peft.PeftModel.from_pretrained(share(base), folder, low_cpu_mem_usage=lean, is_trainable=True)
        with torch.no_grad():
            assert torch.equal(model.eval()(torch.arange(3, 27).reshape(2, 12)).logits, expected["logits"])
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert model.get_nb_trainable_parameters()[0] == sum(one.numel() for one in base.parameters())
    assert all(torch.equal(one, before[name]) for name, one in base.state_dict().items())
"""


def test_loading_writes_nothing_into_another_base(tmp_path: Path) -> None:
    adapted = full(tiny.base("llama"), target_modules=["embed_tokens", "lm_head"])
    adapted.save_pretrained(tmp_path, save_embedding_layers=True)  # writes the base's embeddings too
    other = tiny.base("llama", seed=1)
    before = values(other)
    config_class()
    loaded = PeftModel.from_pretrained(share(other), tmp_path)
    assert same(other, before)
    assert torch.equal(loaded.get_input_embeddings().weight, adapted.get_input_embeddings().weight)


def test_adapters_on_one_base_do_not_touch_each_other() -> None:
    base = tiny.base("llama", **TIED)
    before = values(base)
    adapted, other = full(base), full(base)
    train(adapted)
    first = logits(adapted)
    assert torch.equal(logits(other), logits(base))

    adapted.add_adapter("second", FullConfig(task_type="CAUSAL_LM", target_modules=["lm_head", "layers.1"]))
    assert torch.equal(logits(adapted), first)
    adapted.set_adapter("second")
    assert torch.equal(logits(adapted), logits(base))
    train(adapted)
    second = logits(adapted)
    assert not torch.equal(second, first)
    adapted.set_adapter("default")
    assert torch.equal(logits(adapted), first)
    with pytest.raises(MethodError, match="not default and second"):
        adapted.base_model.merge_and_unload(adapter_names=["default", "second"])
    adapted.base_model.set_adapter(["default", "second"])
    with pytest.raises(MethodError, match="not default and second"):
        logits(adapted)
    adapted.set_adapter("default")
    adapted.delete_adapter("default")
    adapted.set_adapter("second")
    assert torch.equal(logits(adapted), second)
    assert torch.equal(logits(adapted.unload()), logits(base))
    assert same(base, before)


def test_merging_can_be_undone_and_repeated() -> None:
    base = tiny.base("llama", **TIED).to(torch.bfloat16)
    before, adapted = values(base), full(base)
    for _ in range(2):
        train(adapted)
        tuned = logits(adapted)
        adapted.merge_adapter()
        assert torch.equal(logits(adapted), tuned)
        adapted.unmerge_adapter()
        assert torch.equal(logits(adapted), tuned)
    adapted.merge_adapter()
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted), logits(base))
    assert same(base, before)
    adapted.get_input_embeddings().full_copies["default"]["weight"].data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        adapted.merge_and_unload(safe_merge=True)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradient_checkpointing_gives_the_same_training(family: str) -> None:
    base = tiny.base(family)
    stock, saving = full(base).train(), full(base).train()
    saving.gradient_checkpointing_enable({"use_reentrant": False})
    assert train(saving) == train(stock)
    assert torch.equal(logits(saving), logits(stock))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("prefix", [0, 12])
def test_a_trained_head_trains_padding_free(tied: bool, prefix: int) -> None:
    adapted, batch = full(tiny.base("llama", tie_word_embeddings=tied)), tiny.examples(prefix=prefix)
    assert objectives.choose(adapted, batch, 0, CPU, fast=True, supported=True) == PaddingFree(True)
    assert max(objectives.disagreement(adapted, PaddingFree(True), Padded(0), batch, CPU)) < 1e-4


@pytest.mark.parametrize("family", FITTING)
@pytest.mark.parametrize("prefix", [0, 12])
def test_parts_below_a_frozen_head_train_padding_free(family: str, prefix: int) -> None:
    adapted = full(tiny.base(family, tie_word_embeddings=False), target_modules=HEADLESS)
    batch = tiny.examples(prefix=prefix)
    assert isinstance(objectives.choose(adapted, batch, 0, CPU, fast=True, supported=True), PaddingFree)
    for sharing in (False, True):
        assert max(objectives.disagreement(adapted, PaddingFree(sharing), Padded(0), batch, CPU)) < 1e-4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"target_modules": ["layers.1"]}, "model.layers.1."),
        ({"target_modules": r".*\.layers\.1"}, "model.layers.1."),
        ({"target_modules": ["layers.1"], "exclude_modules": ["mlp"]}, "model.layers.1.(?!mlp)"),
        ({"exclude_modules": r"model\..*"}, "lm_head."),
        ({"target_modules": ["norm"]}, "model.norm."),
    ],
)
def test_parts_are_named_as_lists_or_expressions(options: dict[str, object], expected: str) -> None:
    base = tiny.base("llama")
    adapted = full(base, **options)
    changed = {name for name, _ in base.named_parameters() if re.match(expected, name)}
    trainable, _ = adapted.get_nb_trainable_parameters()
    assert trainable == sum(base.get_parameter(name).numel() for name in changed) > 0
    train(adapted)
    merged = adapted.merge_and_unload()
    parameters = dict(merged.named_parameters())
    assert {name for name, one in parameters.items() if not torch.equal(one, base.get_parameter(name))} == changed


def test_excluding_one_end_of_a_tie_freezes_the_other() -> None:
    base = tiny.base("llama", **TIED)
    adapted = full(base, exclude_modules=["lm_head"])
    trainable, _ = adapted.get_nb_trainable_parameters()
    assert trainable == sum(one.numel() for one in base.parameters()) - base.lm_head.weight.numel()
    assert isinstance(objectives.choose(adapted, tiny.examples(), 0, CPU, fast=True, supported=True), PaddingFree)


class Nested(nn.Module):
    """A module with a parameter of its own beside a layer, as attention sinks and state-space models have."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.inner(x)


def test_modules_within_modules_are_trained_switched_and_unwrapped() -> None:
    torch.manual_seed(0)
    base = nn.ModuleDict({"block": Nested()}).requires_grad_(False)
    before, x = values(base), torch.randn(3, 4)
    adapted = get_peft_model(share(base), FullConfig(target_modules=["inner"]))
    adapted.add_adapter("all", FullConfig())
    adapted.set_adapter("all")
    block = adapted.get_base_model()["block"]
    assert adapted.get_nb_trainable_parameters()[0] == 24
    block(x).square().sum().backward()
    with torch.no_grad():
        for one in adapted.parameters():
            if one.grad is not None:
                one -= 0.1 * one.grad
    tuned = block(x)
    assert not torch.equal(tuned, base["block"](x))
    merged = adapted.merge_and_unload()
    assert torch.equal(merged["block"](x), tuned)
    assert merged.state_dict().keys() == before.keys()
    assert same(base, before)


@pytest.fixture
def encoder() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {**tiny.WIDE, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}
    return BertForSequenceClassification(BertConfig(**sizes, num_labels=3)).requires_grad_(False).eval()


def test_a_new_head_is_trained_once_and_saved(encoder: PreTrainedModel, tmp_path: Path) -> None:
    spec = RunSpec(data="x", method="full", task="classification")
    before = values(encoder)
    adapted = attach(share(encoder), spec, "encoder", ["classifier"], peft_type="SEQ_CLS")
    trainable, _ = adapted.get_nb_trainable_parameters()
    assert trainable == sum(one.numel() for one in encoder.parameters())
    assert not isinstance(adapted.get_base_model().classifier.original_module, FullLayer)

    batch = [Example.whole([5, 6, 7], (0,)), Example.whole([8, 9, 10, 11, 12], (2,))]
    loss = TASKS["classification"].head_loss({"multi_label": False})
    path = text_objective.choose(adapted, batch, 0, CPU, loss, fast=True, supported=True)
    assert not path.padded
    assert max(objectives.disagreement(adapted, path, text_objective.TextObjective(0, loss), batch, CPU)) < 1e-4

    labels = torch.tensor([0, 2])
    optimizer = torch.optim.AdamW([one for one in adapted.parameters() if one.requires_grad], lr=1e-3)
    losses = []
    for _ in range(3):
        loss = adapted(input_ids=IDS, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    adapted.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(share(encoder), tmp_path)), logits(adapted))
    adapted.add_adapter("second", FullConfig(task_type="SEQ_CLS", modules_to_save=["classifier"]))
    adapted.set_adapter("second")
    assert torch.equal(logits(adapted), logits(encoder))
    assert same(encoder, before)


def test_the_spec_reaches_the_config() -> None:
    def made(options: dict[str, object], **fields: object) -> FullConfig:
        spec = RunSpec(data="x", method="full", method_options=options, **fields)
        return attach(tiny.base("llama"), spec, "base").peft_config["default"]

    assert made({}).target_modules is None
    assert set(made({}, target_modules="layers.1,norm").target_modules) == {"layers.1", "norm"}
    assert made({"exclude_modules": ["lm_head"]}).exclude_modules == ["lm_head"]


def test_a_run_trains_everything_goes_on_after_a_stop_and_is_found_again(
    start: Callable[..., Run], store: Store
) -> None:
    fields = {"method": "full", "learning_rate": 1e-3, "weight_decay": 0.1}
    run = start(**fields).wait()
    losses = run.history.loss.dropna().tolist()
    assert losses[-1] < 0.9 * losses[0]
    assert run.metrics["total_parameters"] == 2 * run.metrics["trainable_parameters"]
    assert run.metrics["path"].startswith("padding-free")
    assert "import peft_nb.methods.full.model" in (run.adapter_dir / "README.md").read_text()
    stopped = start(stop_at(3), **fields).wait()
    assert stopped.resume().history.loss.dropna().tolist() == losses
    answer, bare = (run.generate("Hello", max_new_tokens=8, adapter=on) for on in (True, False))
    assert load(run.id, store=store).generate("Hello", max_new_tokens=8) == answer != bare


@pytest.fixture
def experts(base: Path, tmp_path: Path) -> str:
    """Folder of a base whose attention and experts have parameters of their own around those of their layers."""
    sizes = {**tiny.GROUPED, "vocab_size": 512, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}
    torch.manual_seed(0)
    GptOssForCausalLM(GptOssConfig(**sizes, initializer_range=0.2)).save_pretrained(tmp_path / "experts")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "experts")
    return str(tmp_path / "experts")


def test_modules_within_modules_go_on_after_a_stop_go_back_to_the_best_and_are_found_again(
    start: Callable[..., Run], store: Store, experts: str
) -> None:
    fields = {
        "method": "full",
        "model": experts,
        "learning_rate": 3e-2,
        "eval_steps": 1,
        "load_best_model_at_end": True,
    }
    run = start(**fields).wait()
    assert 0 < run.metrics["best_step"] < len(run.history)
    losses = run.history.loss.dropna().tolist()
    resumed = start(stop_at(3), **fields).wait().resume()
    assert resumed.history.loss.dropna().tolist() == losses
    expected = logits(run.model)
    assert torch.equal(logits(resumed.model), expected)
    assert torch.equal(logits(load(run.id, store=store).model), expected)

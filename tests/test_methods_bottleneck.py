"""Bottleneck adapters compute what their papers say, and live in PEFT as its own tuners do."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BitsAndBytesConfig,
    DistilBertConfig,
    ElectraConfig,
    OPTConfig,
    RobertaConfig,
)

from peft_nb.data.examples import Example
from peft_nb.errors import MethodError
from peft_nb.methods import attach, problems
from peft_nb.methods.bottleneck.layer import ACTIVATIONS
from peft_nb.methods.bottleneck.model import BottleneckConfig
from peft_nb.models.share import keep_unpacked, share
from peft_nb.spec import RunSpec
from peft_nb.tasks import TASKS
from peft_nb.training import objectives
from peft_nb.training.objectives import Padded, PaddingFree
from peft_nb.training.text_objective import TextObjective
from tests import tiny

pytestmark = pytest.mark.exhaustive

CPU = torch.device("cpu")
IDS = torch.arange(3, 19).reshape(2, 8)
PLACEMENTS = ["houlsby", "pfeiffer", "parallel"]
FAMILIES = [*tiny.FAMILIES, "bert"]
FITTING = [family for family in tiny.FAMILIES if family != "gemma2"]

# What a layer's attention and feed-forward put out, and the module that reads what the feed-forward reads.
GATED = ("self_attn.o_proj", "mlp.down_proj", "mlp")
LAYER = {
    "gpt2": ("attn.c_proj", "mlp.c_proj", "mlp"),
    "gpt-neox": ("attention.dense", "mlp.dense_4h_to_h", "mlp"),
    "phi": ("self_attn.dense", "mlp.fc2", "mlp"),
    "bert": ("attention.output.dense", "output.dense", "intermediate"),
}


def base(family: str) -> nn.Module:
    if family != "bert":
        return tiny.base(family)
    torch.manual_seed(0)
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}
    return BertForSequenceClassification(BertConfig(**tiny.WIDE, **quiet, num_labels=3)).requires_grad_(False).eval()


def draw(model: PeftModel, seed: int = 1) -> PeftModel:
    """Values for every trainable parameter, so that each has something to say."""
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            parameter.data.normal_(std=0.2, generator=generator)
    return model.eval()


def adapted(model: nn.Module, **settings: Any) -> PeftModel:
    return draw(get_peft_model(model, BottleneckConfig(**{"reduction_factor": 4, **settings})))


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def gradients(model: nn.Module, **inputs: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(IDS, **inputs).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def reference(model: nn.Module, family: str, weights: dict[str, torch.Tensor], placement: str, scale: float) -> None:
    """Hook the papers' formulas onto a bare model."""
    attention, end, start = LAYER.get(family, GATED)
    layers = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    prefix = next(name for name, module in model.named_modules() if module is layers)

    def f(key: str, x: torch.Tensor) -> torch.Tensor:
        w = {part: weights[f"base_model.model.{key}.bottleneck_{part}"] for part in PARTS}
        x = F.layer_norm(x, x.shape[-1:], w["norm.weight"], w["norm.bias"])
        low = F.gelu(x @ w["down.weight"].T + w["down.bias"])
        return scale * (low @ w["up.weight"].T + w["up.bias"])

    def behind(key: str) -> Any:
        return lambda module, args, h: h + f(key, h)

    for number, layer in enumerate(layers):
        key = f"{prefix}.{number}"
        if placement == "parallel":
            owner, read = f"{key}.{'output' if family == 'bert' else start}", []
            layer.get_submodule(start).register_forward_pre_hook(lambda module, args, read=read: read.append(args[0]))
            layer.get_submodule(end).register_forward_hook(
                lambda module, args, h, read=read, owner=owner: h + f(owner, read.pop())
            )
            continue
        for name in (attention, end) if placement == "houlsby" else (end,):
            layer.get_submodule(name).register_forward_hook(behind(f"{key}.{name}"))


PARTS = [f"{part}.{kind}" for part in ("norm", "down", "up") for kind in ("weight", "bias")]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_the_formulas(family: str, placement: str) -> None:
    bare = base(family)
    model = adapted(share(bare), placement=placement, non_linearity="gelu", layer_norm=True, scaling=1.5)
    before = logits(bare)
    reference(bare, family, get_peft_model_state_dict(model), placement, 1.5)
    torch.testing.assert_close(logits(model), logits(bare), rtol=1e-4, atol=1e-4)
    assert (logits(model) - before).abs().max() > 0.01


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_adapter_changes_nothing_and_is_as_large_as_told(family: str, placement: str) -> None:
    bare = base(family)
    model = get_peft_model(share(bare), BottleneckConfig(placement=placement, reduction_factor=5)).eval()
    assert torch.equal(logits(model), logits(bare))
    hidden, narrow, sublayers = 32, 6, 2 if placement == "houlsby" else 1
    expected = 2 * sublayers * (hidden * narrow + narrow + narrow * hidden + hidden)
    assert model.get_nb_trainable_parameters()[0] == expected


NARROW = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
OTHERS = {
    "roberta": RobertaConfig(**tiny.WIDE),
    "electra": ElectraConfig(**tiny.WIDE, embedding_size=32),
    "distilbert": DistilBertConfig(vocab_size=tiny.VOCABULARY, **NARROW),
    "opt": OPTConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4
    ),
}


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("family", OTHERS)
def test_other_families_get_an_adapter_in_every_layer(family: str, placement: str) -> None:
    auto = AutoModelForCausalLM if family == "opt" else AutoModelForSequenceClassification
    model = auto.from_config(OTHERS[family]).requires_grad_(False).eval()
    if (family, placement) == ("opt", "parallel"):  # its feed-forward part is no module of its own
        with pytest.raises(MethodError, match="OPTForCausalLM has no module known to the parallel placement"):
            get_peft_model(model, BottleneckConfig(placement=placement))
        return
    before = logits(model)
    changed = get_peft_model(model, BottleneckConfig(placement=placement)).eval()
    assert torch.equal(logits(changed), before)
    layers = {name.split(".bottleneck_")[0] for name, one in changed.named_parameters() if one.requires_grad}
    assert len(layers) == (4 if placement == "houlsby" else 2)
    assert (logits(draw(changed)) - before).abs().max() > 1e-4


@pytest.mark.parametrize("non_linearity", ACTIVATIONS)
def test_non_linearities_are_told_apart(non_linearity: str) -> None:
    found = logits(adapted(tiny.base("llama"), non_linearity=non_linearity))
    others = [logits(adapted(tiny.base("llama"), non_linearity=one)) for one in ACTIVATIONS if one != non_linearity]
    assert all((found - other).abs().max() > 1e-3 for other in others)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_training_lowers_the_loss_and_leaves_the_base(placement: str) -> None:
    model = get_peft_model(tiny.base("llama"), BottleneckConfig(placement=placement, reduction_factor=4))
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, lr=1e-2), []
    for _ in range(20):
        loss = model(IDS, labels=IDS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if not p.requires_grad)
    assert frozen


def test_a_saved_adapter_gives_the_same_outputs_in_a_new_process(tmp_path: Path) -> None:
    for family in ("llama", "bert"):
        base(family).save_pretrained(tmp_path / family)
        for placement in PLACEMENTS:
            folder, head = tmp_path / f"{family}-{placement}", ["classifier"] if family == "bert" else None
            model = adapted(base(family), placement=placement, layer_norm=True, modules_to_save=head)
            model.save_pretrained(folder)
            assert (folder / "adapter_model.safetensors").is_file()
            save_file({"logits": logits(model)}, folder / "expected.safetensors")
    assert any("classifier" in name for name in load_file(tmp_path / "bert-houlsby" / "adapter_model.safetensors"))
    script = """
import sys, torch
from pathlib import Path
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from peft_nb.methods.bottleneck import config_class

config_class()
config_class()
for kind, family in ((AutoModelForCausalLM, "llama"), (AutoModelForSequenceClassification, "bert")):
    for folder in sorted(Path(sys.argv[1]).glob(family + "-*")):
        model = PeftModel.from_pretrained(kind.from_pretrained(folder.parent / family), folder).eval()
        with torch.no_grad():
            found = model(torch.arange(3, 19).reshape(2, 8)).logits
        print(folder.name, torch.allclose(found, load_file(folder / "expected.safetensors")["logits"], atol=1e-5))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")[:-1]) == sorted(
        f"{family}-{placement} True" for family in ("llama", "bert") for placement in PLACEMENTS
    )


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_disabled_or_unloaded_it_is_the_base(placement: str) -> None:
    before = logits(tiny.base("llama"))
    model = adapted(tiny.base("llama"), placement=placement)
    changed = logits(model)
    with model.disable_adapter():
        assert torch.equal(logits(model), before)
    assert torch.equal(logits(model), changed)
    assert not torch.equal(changed, before)
    assert torch.equal(logits(model.unload()), before)


@pytest.mark.parametrize(("first", "second"), [("pfeiffer", "houlsby"), ("parallel", "parallel")])
def test_two_adapters_on_one_base_do_not_touch_each_other(tmp_path: Path, first: str, second: str) -> None:
    settings = {"placement": second, "reduction_factor": 8, "non_linearity": "tanh", "layer_norm": True}
    alone = adapted(tiny.base("llama"), placement=first), adapted(tiny.base("llama"), **settings)
    alone[1].save_pretrained(tmp_path)
    model = adapted(tiny.base("llama"), placement=first)
    model.add_adapter("fresh", BottleneckConfig(placement=second))
    model.load_adapter(tmp_path, "loaded")
    assert torch.equal(logits(model), logits(alone[0]))
    model.set_adapter("loaded")
    torch.testing.assert_close(logits(model), logits(alone[1]))
    assert all(".loaded." in name for name in gradients(model, labels=IDS))
    model.set_adapter("fresh")
    assert torch.equal(logits(model), logits(tiny.base("llama")))
    model.set_adapter("default")
    model.delete_adapter("loaded")
    assert torch.equal(logits(model), logits(alone[0]))
    assert {name.split(".")[-2] for name in gradients(model, labels=IDS)} == {"default"}


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_adapters_on_shares_of_a_base_do_not_touch_each_other(placement: str) -> None:
    bare = tiny.base("llama")
    before = logits(bare)
    first, second = (get_peft_model(share(bare), BottleneckConfig(placement=placement)) for _ in range(2))
    draw(first)
    assert torch.equal(logits(second.eval()), before)
    kept = logits(first)
    draw(second, seed=2)
    assert torch.equal(logits(first), kept)
    assert torch.equal(logits(bare), before)


@pytest.mark.parametrize("order", [("parallel", "houlsby"), ("pfeiffer", "parallel")])
def test_adapters_that_would_nest_are_refused(order: tuple[str, str]) -> None:
    model = adapted(tiny.base("llama"), placement=order[0])
    before = logits(model)
    with pytest.raises(MethodError, match="each need a base of their own"):
        model.add_adapter("other", BottleneckConfig(placement=order[1]))
    assert torch.equal(logits(model), before)
    assert list(model.peft_config) == ["default"]


@pytest.mark.parametrize("merge", ["merge_and_unload", "merge_adapter"])
def test_merging_is_refused(merge: str) -> None:
    model = adapted(tiny.base("llama"))
    before = logits(model)
    with pytest.raises(MethodError, match="cannot be merged"):
        getattr(model, merge)()
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_bfloat16_base_keeps_its_dtype_and_adapters_theirs(family: str, placement: str) -> None:
    exact = logits(adapted(base(family), placement=placement, scaling=1.0))
    model = adapted(base(family).to(torch.bfloat16), placement=placement, scaling=1.0)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    assert logits(model).dtype == torch.bfloat16
    assert (logits(model).float() - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_gradient_checkpointing_changes_no_gradient(placement: str) -> None:
    model = adapted(tiny.base("llama"), placement=placement).train()
    expected = gradients(model, labels=IDS)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    found = gradients(model, labels=IDS)
    assert all(gradient.abs().max() > 0 for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("family", FITTING)
def test_padding_free_equals_padded(family: str, placement: str) -> None:
    model = adapted(tiny.base(family), placement=placement)
    for prefix in (0, 12):
        batch = tiny.examples(prefix=prefix)
        assert max(objectives.disagreement(model, PaddingFree(True), Padded(0), batch, CPU)) < 1e-4
    assert isinstance(objectives.choose(model, tiny.examples(), 0, CPU, fast=True, supported=True), PaddingFree)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_classifier_without_padding_learns_the_same(placement: str) -> None:
    model = adapted(base("bert"), placement=placement, modules_to_save=["classifier"])
    texts = [
        Example.whole(ids, (label,)) for ids, label in (([2, 5, 6, 3], 0), ([2, 7, 3], 2), ([2, 9, 8, 4, 1, 3], 1))
    ]
    padded = TextObjective(0, TASKS["classification"].head_loss({"multi_label": False}))
    loss, gradient = objectives.disagreement(model, replace(padded, padded=False), padded, texts, CPU)
    assert loss < 1e-5
    assert gradient < 1e-4


@pytest.mark.parametrize("placement", ["houlsby", "parallel"])
@pytest.mark.parametrize("bits", [4, 8])
def test_it_trains_beside_a_quantized_base(tmp_path: Path, bits: int, placement: str) -> None:
    tiny.base("llama", hidden_size=64, head_dim=16, intermediate_size=128).save_pretrained(tmp_path)
    settings = {4: {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, 8: {"load_in_8bit": True}}[bits]
    bare = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, device_map={"": "cpu"}, quantization_config=BitsAndBytesConfig(**settings)
    )
    bare = keep_unpacked(bare)
    before = logits(bare)
    model = get_peft_model(share(bare), BottleneckConfig(placement=placement))
    torch.testing.assert_close(logits(model.eval()), before)
    found = gradients(draw(model).train(), labels=IDS)
    assert found
    assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in found.values())
    assert torch.equal(logits(bare), before)


def test_dropout_acts_in_training_only() -> None:
    model = adapted(tiny.base("llama"), dropout=0.5)
    assert torch.equal(logits(model), logits(model))
    assert torch.equal(logits(model), logits(adapted(tiny.base("llama"))))
    assert not torch.equal(logits(model.train()), logits(model))


def test_a_spec_makes_the_adapter() -> None:
    spec = RunSpec(data="x", method="bottleneck", dropout=0.1)
    assert problems(spec) == []
    model = attach(tiny.base("llama"), spec, "base")
    config = model.peft_config["default"]
    assert (config.dropout, config.base_model_name_or_path) == (0.1, "base")
    assert model.base_model.targeted_module_names == ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]
    other = RunSpec(data="x", method="bottleneck", target_modules=["mlp"], method_options={"placement": "parallel"})
    config = attach(tiny.base("llama"), other, "base").peft_config["default"]
    assert (config.placement, config.target_modules, config.scaling) == ("parallel", ["mlp"], 4.0)


def test_a_run_trains_one(start: Any) -> None:
    run = start(method="bottleneck", max_steps=4).wait()
    assert (run.status, run.reason) == ("finished", "")
    assert run.metrics["trainable_parameters"] == 2 * (64 * 4 + 4 + 4 * 64 + 64)
    assert (run.adapter_dir / "adapter_model.safetensors").is_file()

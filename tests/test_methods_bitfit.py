"""BitFit trains what plain PyTorch would train, and the base never feels it."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BertConfig, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from peft_nb.errors import MethodError
from peft_nb.methods import REGISTRY, attach, bitfit
from peft_nb.methods.bitfit.layer import BitFitLayer
from peft_nb.methods.bitfit.model import BitFitConfig
from peft_nb.models.share import keep_unpacked, share
from peft_nb.spec import RunSpec
from peft_nb.training import objectives
from peft_nb.training.objectives import Padded, PaddingFree
from tests import tiny
from tests.conftest import Python

pytestmark = pytest.mark.exhaustive

CPU = torch.device("cpu")
IDS = torch.arange(3, 35).reshape(2, 16)
BARE = 2 * (32 + 16 + 16 + 32 + 48 + 48 + 32)  # layers times q, k, v, o, gate, up, down
TRAINED = {
    "llama": BARE,
    "qwen2": 2 * (32 + 16 + 16),
    "qwen3": BARE,
    "mistral": BARE,
    "mistral-window": BARE,
    "gemma": BARE,
    "gemma2": BARE,
    "gpt2": 2 * (32 + 96 + 32 + 32 + 128 + 32) + 32,  # two norms, qkv, out, up, down; the last norm
    "gpt-neox": 2 * (32 + 32 + 96 + 32 + 48 + 32) + 32,
    "phi": 2 * (32 + 3 * 32 + 32 + 48 + 32) + 32,  # one norm a layer
}
WITH_BIASES = ["gpt2", "gpt-neox", "phi", "qwen2"]


@pytest.fixture(autouse=True)
def registered() -> None:
    bitfit.config_class()


def adapted(base: nn.Module, *, shift: float = 0, **options: Any) -> PeftModel:
    """A share of the base with an adapter whose biases are zero or random."""
    model = get_peft_model(share(base), BitFitConfig(**{"task_type": "CAUSAL_LM", **options}))
    return shifted(model, shift) if shift else model


def shifted(model: PeftModel, scale: float = 0.3, adapter: str = "default", seed: int = 1) -> PeftModel:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith(f"bitfit_bias.{adapter}"):
            parameter.data.normal_(std=scale, generator=generator)
    return model


def plain(base: nn.Module) -> nn.Module:
    """The same model with its own biases to train, or new ones where it has none, without PEFT."""
    model = copy.deepcopy(base).requires_grad_(False)
    body = [one for one in model.base_model.modules() if isinstance(one, nn.Linear | Conv1D | nn.LayerNorm)]
    bare = all(one.bias is None for one in body)
    for one in body:
        if bare:
            one.bias = nn.Parameter(torch.zeros(one.out_features))
        elif one.bias is not None:
            one.bias.requires_grad_(True)
    return model


def train(model: nn.Module, steps: int = 5, rate: float = 1e-2) -> list[float]:
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=rate, weight_decay=0)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def logits(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits.clone()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_it_trains_what_plain_pytorch_trains(family: str) -> None:
    base = tiny.base(family)
    before, untrained = weights(base), logits(base)
    reference, model = plain(base), adapted(base)
    assert model.get_nb_trainable_parameters()[0] == TRAINED[family]
    assert sum(one.numel() for one in reference.parameters() if one.requires_grad) - TRAINED[family] == 0
    assert torch.equal(logits(model), untrained)
    expected, losses = train(reference), train(model)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(logits(model), logits(reference), rtol=1e-3, atol=1e-3)
    assert losses[-1] < losses[0] - 0.01
    assert same(before, weights(base))
    assert torch.equal(logits(base), untrained)
    with model.disable_adapter():
        assert torch.equal(logits(model), untrained)


@pytest.mark.parametrize("family", [family for family in tiny.FAMILIES if family != "gemma2"])
@pytest.mark.parametrize("prefix", [0, 12])
def test_padding_free_equals_padded(family: str, prefix: int) -> None:
    model, batch = adapted(tiny.base(family), shift=0.1), tiny.examples(prefix=prefix)
    for shared in (False, True):
        assert max(objectives.disagreement(model, PaddingFree(shared), Padded(0), batch, CPU)) < 1e-4
    assert isinstance(objectives.choose(model, batch, 0, CPU, fast=True, supported=True), PaddingFree)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradient_checkpointing_changes_no_gradient(family: str, reentrant: bool) -> None:
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        model = adapted(tiny.base(family), shift=0.1).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model(input_ids=IDS, labels=IDS).loss.backward()
        return [one.grad for one in model.parameters() if one.requires_grad]

    torch.testing.assert_close(gradients(True), gradients(False))


def test_the_biases_are_float32_beside_a_base_in_bfloat16_and_move_its_output() -> None:
    base = tiny.base("llama", initializer_range=0.1).to(torch.bfloat16)
    model = adapted(base)
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.float32}
    assert torch.equal(logits(model), logits(base))
    losses = train(model)
    assert losses[-1] < losses[0]
    assert logits(model).dtype == torch.bfloat16


def test_trainer_decays_none_of_them() -> None:
    from transformers import Trainer, TrainingArguments

    model = adapted(tiny.base("llama"))
    trainer = Trainer(model, TrainingArguments(report_to=[], use_cpu=True, weight_decay=0.1))
    decayed = trainer.get_decay_parameter_names(model)
    assert not [name for name in decayed if "bitfit" in name]


LOAD = """
import sys
import torch
from peft_nb.methods import bitfit
bitfit.config_class()
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
found = {}
for folder in sys.argv[1:]:
    for adapter in ("", "/other"):
        model = AutoModelForCausalLM.from_pretrained(folder + "/base")
        model = PeftModel.from_pretrained(model, folder + "/saved" + adapter)
        with torch.inference_mode():
            found[folder + adapter] = model(input_ids=torch.arange(3, 35).reshape(2, 16)).logits
save_file(found, sys.argv[1] + "/logits.safetensors")
"""


def test_a_new_process_loads_what_was_saved(tmp_path: Path, python: Python) -> None:
    from safetensors.torch import load_file

    expected, folders = {}, []
    for family, add in (("llama", "auto"), ("qwen2", "auto"), ("qwen2", "all"), ("gpt2", "auto")):
        base, folder = tiny.base(family), tmp_path / f"{family}-{add}"
        base.save_pretrained(folder / "base")
        model = adapted(base, shift=0.3, add=add)
        model.add_adapter("other", BitFitConfig(task_type="CAUSAL_LM", add=add))
        shifted(model, adapter="other", seed=2)
        model.save_pretrained(folder / "saved")
        saved = load_file(folder / "saved" / "adapter_model.safetensors")
        assert {name.rpartition(".")[2] for name in saved} == {"bitfit_bias"}
        expected[str(folder)] = logits(model)
        model.set_adapter("other")
        expected[f"{folder}/other"] = logits(model)
        assert not torch.equal(expected[str(folder)], expected[f"{folder}/other"])
        folders.append(folder)
    assert python("-c", LOAD, *folders).wait() == 0
    assert same(expected, load_file(folders[0] / "logits.safetensors"))


def test_registering_again_changes_nothing() -> None:
    import importlib

    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    bitfit.config_class()
    importlib.reload(sys.modules["peft_nb.methods.bitfit.model"])
    assert PEFT_TYPE_TO_CONFIG_MAPPING["BITFIT"] is BitFitConfig
    assert [one for one in PeftType if one == "BITFIT"] == [PeftType.BITFIT] == [PeftType("BITFIT")]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_two_adapters_and_two_shares_do_not_touch_each_other(family: str) -> None:
    base = tiny.base(family)
    untrained, model, neighbour = logits(base), adapted(base), adapted(base, shift=0.5)
    beside = logits(neighbour)
    model.add_adapter("second", BitFitConfig(task_type="CAUSAL_LM"))
    train(model)
    first = logits(model)
    model.set_adapter("second")
    assert torch.equal(logits(model), untrained)
    assert model.get_nb_trainable_parameters()[0] == TRAINED[family]
    train(model, rate=3e-2)
    second = logits(model)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    assert not torch.equal(first, second)
    assert torch.equal(logits(neighbour), beside)
    model.delete_adapter("second")
    assert torch.equal(logits(model), first)
    assert torch.equal(logits(base), untrained)
    assert torch.equal(logits(model.unload()), untrained)


@pytest.mark.parametrize("family", WITH_BIASES)
def test_merging_gives_the_adapters_outputs_and_leaves_the_base(family: str) -> None:
    base = tiny.base(family)
    before, model = weights(base), adapted(base, shift=0.3)
    expected, untrained = logits(model), logits(base)
    assert (expected - untrained).abs().max() > 0.1
    model.merge_adapter()
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    assert same(before, weights(base))
    model.unmerge_adapter()
    assert torch.equal(logits(model), expected)
    merged = model.merge_and_unload(safe_merge=True)
    assert not [one for one in merged.modules() if isinstance(one, BitFitLayer)]
    assert weights(merged).keys() == before.keys()
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)
    assert same(before, weights(base))


@pytest.mark.parametrize(("family", "add"), [("llama", "auto"), ("qwen2", "all")])
@pytest.mark.parametrize("merge", ["merge_adapter", "merge_and_unload"])
def test_added_biases_are_not_merged_and_nothing_changes(family: str, add: str, merge: str) -> None:
    model = adapted(tiny.base(family), shift=0.3, add=add)
    before, expected = weights(model), logits(model)
    with pytest.raises(
        MethodError, match=r"^bitfit: \d+ biases were added to layers of \w+ that have none, .*$"
    ) as told:
        getattr(model, merge)()
    assert "\n" not in str(told.value)
    assert same(before, weights(model))
    assert torch.equal(logits(model), expected)


def test_an_adapter_without_added_biases_merges_beside_one_with_them() -> None:
    model = adapted(tiny.base("qwen2"), shift=0.3)
    model.add_adapter("wide", BitFitConfig(task_type="CAUSAL_LM", add="all"))
    expected = logits(model)
    with pytest.raises(MethodError, match="8 biases were added"):
        model.merge_and_unload(adapter_names=["wide"])
    torch.testing.assert_close(logits(model.merge_and_unload()), expected, rtol=1e-4, atol=1e-4)


def test_biases_that_are_not_finite_are_not_merged() -> None:
    model = adapted(tiny.base("gpt2"), shift=float("inf"))
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_adapter(safe_merge=True)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("family", ["llama", "gpt-neox"])
def test_a_quantized_base_is_trained_and_stays_as_it_was(family: str, bits: int, tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.1}
    tiny.base(family, **sizes, **({"head_dim": 16} if family == "llama" else {})).save_pretrained(tmp_path)
    options = {4: {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}}
    settings = BitsAndBytesConfig(**options.get(bits, {"load_in_8bit": True}))
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, device_map={"": "cpu"}, quantization_config=settings
    )
    untrained = logits(keep_unpacked(base))
    model = adapted(base)
    wrapped = [one for one in model.modules() if isinstance(one, BitFitLayer)]
    assert any(isinstance(one.base_layer, Linear4bit if bits == 4 else Linear8bitLt) for one in wrapped)
    losses = train(model)
    assert losses[-1] < losses[0]
    trained = logits(model)
    assert not torch.equal(trained, untrained)
    assert torch.equal(logits(base), untrained)
    if family == "gpt-neox":
        torch.testing.assert_close(logits(model.merge_and_unload()), trained, rtol=1e-4, atol=1e-4)
        assert torch.equal(logits(base), untrained)


def classifier(family: str) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = tiny.FAMILIES.get(family) or BertConfig(vocab_size=tiny.VOCABULARY, **sizes, hidden_dropout_prob=0)
    config = config.__class__(**{**config.to_dict(), "num_labels": 3, "pad_token_id": 0, "initializer_range": 0.2})
    return AutoModelForSequenceClassification.from_config(config).requires_grad_(False).eval()


@pytest.mark.parametrize(("family", "biases"), [("bert", 2 * (6 * 32 + 48 + 32) + 32 + 32), ("llama", BARE)])
def test_a_classifiers_head_is_trained_in_full_and_saved_along(family: str, biases: int, tmp_path: Path) -> None:
    base = classifier(family)
    before = weights(base)
    head = "classifier" if family == "bert" else "score"
    model = adapted(base, task_type="SEQ_CLS", modules_to_save=[head])
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    assert sum(one.numel() for name, one in trained.items() if "bitfit" in name) == biases
    assert sum(one.numel() for name, one in trained.items() if "bitfit" not in name) == 3 * 32 + 3 * (family == "bert")
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    losses = []
    for _ in range(5):
        loss = model(input_ids=IDS, labels=torch.tensor([0, 2])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert same(before, weights(base))
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(share(base), tmp_path)), logits(model))


def test_a_head_with_a_bias_does_not_pass_for_a_bias_of_the_base() -> None:
    parts = nn.ModuleDict({"encoder": tiny.base("llama").model, "classifier": nn.Linear(32, 3)})
    model = get_peft_model(parts, BitFitConfig(modules_to_save=["classifier"]))
    biases = sum(one.numel() for name, one in model.named_parameters() if "bitfit" in name)
    assert biases == BARE


def spec(**options: Any) -> Any:
    """A spec as the registry sees it."""
    return SimpleNamespace(method_options=options)


@pytest.mark.parametrize(
    ("family", "options", "told"),
    [
        (
            "llama",
            {},
            "bitfit: 14 zero-initialised biases were added to the linear layers of LlamaForCausalLM, which had none",
        ),
        ("gpt2", {}, "bitfit: 13 trainable biases in GPT2LMHeadModel"),
        (
            "qwen2",
            {"add": "all"},
            "bitfit: 6 trainable biases in Qwen2ForCausalLM, and 8 zero-initialised ones were added to linear "
            "layers that had none",
        ),
        ("phi", {"target_modules": ["q_proj", "fc2"]}, "bitfit: 4 trainable biases in PhiForCausalLM"),
        ("gpt2", {"target_modules": r".*\.h\.1\..*"}, "bitfit: 6 trainable biases in GPT2LMHeadModel"),
    ],
)
def test_one_line_says_what_was_done(family: str, options: dict[str, Any], told: str) -> None:
    assert bitfit.describe(get_peft_model(tiny.base(family), BitFitConfig(**options))) == told


def test_it_is_registered_and_attaches() -> None:
    assert REGISTRY["bitfit"].quantizations == ("none", "4bit", "8bit")
    model = attach(share(tiny.base("llama")), RunSpec(data="x", method="bitfit"), "some/base")
    assert model.get_nb_trainable_parameters()[0] == BARE
    assert model.peft_config["default"].base_model_name_or_path == "some/base"

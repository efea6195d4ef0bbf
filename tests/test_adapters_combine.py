"""The arithmetic of combining, on adapters drawn at random; whole runs are combined in test_runs_combine.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model

from peft_nb.adapters.combine import HOWS, combine, same
from peft_nb.errors import MethodError
from peft_nb.models.load import Base, load
from peft_nb.models.plain import bare
from peft_nb.models.resolve import resolve
from peft_nb.models.share import share

pytestmark = pytest.mark.exhaustive

IDS = torch.tensor([[1, 60, 7, 100, 9, 300, 12, 2]])
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@dataclass
class Saved:
    """Adapters drawn at random on one base, in folders."""

    base: Base
    folders: dict[str, Path]

    def live(self, name: str) -> PeftModel:
        """An adapter as PEFT loads it."""
        return PeftModel.from_pretrained(share(self.base.model), str(self.folders[name])).eval()

    def combine(self, weights: dict[str, float], how: str, density: float = 0.5) -> PeftModel:
        """Some of them combined."""
        folders = {name: self.folders[name] for name in weights}
        live = self.live(next(iter(weights)))
        return combine(live, self.base.tokenizer, folders, list(weights.values()), how, density, seed=0)


@pytest.fixture(scope="module")
def saved(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Kinds of adapters; those that begin as the identity are drawn away from it."""
    loaded = load(resolve(str(base)))
    lora = {"task_type": "CAUSAL_LM", "target_modules": "all-linear", "r": 4}
    configs: dict[str, Any] = {
        "first": LoraConfig(**lora, lora_alpha=8),
        "second": LoraConfig(**lora, lora_alpha=4),
        "narrow": LoraConfig(**{**lora, "r": 2}),
        "rslora": LoraConfig(**lora, lora_alpha=8, use_rslora=True),
        "dora": LoraConfig(**lora, use_dora=True),
        "ia3": IA3Config(
            task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
        ),
        "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    }
    folders = {name: tmp_path_factory.mktemp(name) for name in configs}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, config in configs.items():
            model = get_peft_model(share(loaded.model), config)
            for path, parameter in model.named_parameters():
                if "lora_B" in path:
                    parameter.data.normal_(std=0.1)
                if "magnitude" in path or "ia3" in path:
                    parameter.data.mul_(1 + torch.rand_like(parameter))
            model.save_pretrained(folders[name], save_embedding_layers=False)
    return Saved(loaded, folders)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits


def folded(saved: Saved, weights: dict[str, float]) -> torch.Tensor:
    """Logits of the base with the weighted sum of the updates in its weights, worked out by hand."""
    adapters = {name: saved.live(name) for name in weights}
    model = bare(next(iter(adapters.values())))
    for path, module in model.named_modules():
        for name, weight in weights.items():
            layer = adapters[name].get_base_model().get_submodule(path)
            if hasattr(layer, "get_delta_weight"):
                updated = module.weight.data + weight * layer.get_delta_weight("default")
                module.weight = torch.nn.Parameter(updated)
    return logits(model)


@pytest.mark.parametrize("how", HOWS)
def test_an_adapter_alone_at_weight_one_is_itself(saved: Saved, how: str, tmp_path: Path) -> None:
    found = saved.combine({"second": 1.0}, how, density=1.0)
    torch.testing.assert_close(logits(found), logits(saved.live("second")), **CLOSE)
    assert (logits(found) - logits(saved.base.model)).abs().max() > 0.1
    assert list(found.peft_config) == ["default"]
    assert not found.training
    assert not any(one.requires_grad for one in found.parameters())
    found.save_pretrained(tmp_path, save_embedding_layers=False)
    assert same(found, tmp_path, saved.base.tokenizer)


def test_cat_is_the_sum_of_the_updates_and_the_base_stays_as_it_is(saved: Saved) -> None:
    before, weights = logits(saved.base.model), {"first": 0.7, "second": -0.3}
    torch.testing.assert_close(logits(saved.combine(weights, "cat")), folded(saved, weights), **CLOSE)
    assert torch.equal(logits(saved.base.model), before)


def test_svd_is_the_nearest_update_of_that_rank(saved: Saved) -> None:
    both = saved.combine({"first": 0.7, "second": 0.3}, "svd")
    layer = "model.layers.0.mlp.up_proj"
    wanted = sum(
        weight * saved.live(name).get_base_model().get_submodule(layer).get_delta_weight("default")
        for name, weight in (("first", 0.7), ("second", 0.3))
    )
    found = both.get_base_model().get_submodule(layer).get_delta_weight("default")
    values = torch.linalg.svdvals(wanted)
    assert values[4] > 0.01  # the sum is of a higher rank
    assert torch.linalg.svdvals(found)[4] < 1e-4
    torch.testing.assert_close((found - wanted).norm(), values[4:].norm(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("how", ["ties", "dare_ties"])
def test_what_is_dropped_at_random_is_the_same_each_time(saved: Saved, how: str) -> None:
    weights = {"first": 0.5, "second": 0.5}
    assert torch.equal(*(logits(saved.combine(weights, how)) for _ in range(2)))


def test_another_seed_drops_others_and_leaves_the_random_numbers_of_others(saved: Saved) -> None:
    folders = {name: saved.folders[name] for name in ("first", "second")}
    live = saved.live("first")
    before = torch.get_rng_state()
    found = [combine(live, saved.base.tokenizer, folders, [0.5, 0.5], "dare_linear", 0.5, seed) for seed in (0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(*map(logits, found))


def test_rslora_keeps_its_scale(saved: Saved) -> None:
    for how in ("cat", "linear", "svd"):
        alone = saved.combine({"rslora": 1.0}, how)
        torch.testing.assert_close(logits(alone), logits(saved.live("rslora")), **CLOSE)
    mixed = saved.combine({"first": 0.5, "rslora": 0.5}, "cat")
    torch.testing.assert_close(logits(mixed), folded(saved, {"first": 0.5, "rslora": 0.5}), **CLOSE)


def test_scales_are_combined_by_linear_alone(saved: Saved) -> None:
    torch.testing.assert_close(logits(saved.combine({"ia3": 1.0}, "linear")), logits(saved.live("ia3")), **CLOSE)


@pytest.mark.parametrize(
    ("weights", "how", "said"),
    [
        (
            {"dora": 1.0},
            "cat",
            r"^'cat' cannot combine dora: at weight 1.0 alone its outputs are off by \d+% of what it",
        ),
        ({"first": 0.5, "dora": 0.5}, "linear", "'linear' cannot combine dora: .*; no other how does; lora, qlora"),
        ({"ia3": 1.0}, "cat", "^'cat' cannot combine ia3: adapters of this kind have no factors.*; how='linear' does$"),
        ({"prefix": 1.0}, "cat", "^PEFT cannot combine adapters of the kind prefix_tuning; lora, qlora"),
        ({"first": 1.0, "narrow": 1.0}, "linear", "^'linear' cannot combine first and narrow: .*same r value"),
        ({"first": 1.0, "ia3": 1.0}, "cat", "^these adapters do not fit on one base together: "),
    ],
)
def test_what_peft_gets_wrong_is_refused_in_a_line(
    saved: Saved, weights: dict[str, float], how: str, said: str
) -> None:
    with pytest.raises(MethodError, match=said) as refused:
        saved.combine(weights, how)
    assert "\n" not in str(refused.value)


def test_what_reads_back_otherwise_is_not_the_same(saved: Saved, tmp_path: Path) -> None:
    saved.combine({"first": 1.01}, "cat").save_pretrained(tmp_path, save_embedding_layers=False)
    assert same(saved.live("first"), saved.folders["first"], saved.base.tokenizer)
    assert not same(saved.live("first"), tmp_path, saved.base.tokenizer)
    assert not same(saved.live("first"), saved.folders["second"], saved.base.tokenizer)

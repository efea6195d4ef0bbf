"""One layer alone computes what it does inside its model, and what it keeps is what autograd keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from peft_nb.planning import layer_benchmark
from peft_nb.planning.layer_benchmark import _afresh, _head_seconds, _kept, _layer, _products, benchmark_layer
from peft_nb.training.draws import OwnDraws
from peft_nb.training.objectives import Padded, PaddingFree
from tests import tiny

CPU = torch.device("cpu")


def adapted() -> PeftModel:
    return tiny.with_lora(tiny.base("llama", num_hidden_layers=1))


def outputs(model: Any, objective: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What the only layer of a model is given and gives, while the model computes its loss."""
    seen: list[torch.Tensor] = []

    def note(layer: nn.Module, given: Any, out: Any) -> None:
        seen.extend((given[0].detach(), (out[0] if isinstance(out, tuple) else out).detach()))

    (layer,) = next(part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == 1)
    with layer.register_forward_hook(note):
        objective.loss(model, batch, CPU)
    return seen[0], seen[1]


@pytest.mark.parametrize("objective", [Padded(0), PaddingFree(True), PaddingFree(False)], ids=str)
def test_a_layer_alone_gives_what_it_gives_in_its_model(objective: Any) -> None:
    model, batch = adapted(), tiny.examples(3, prefix=10)
    with objective.installed(model):
        hidden, wanted = outputs(model, objective, batch)
        layer, call = _layer(model, objective, batch, CPU)
        given, found = call(1)
        assert torch.equal(given, hidden)
        torch.testing.assert_close(found, wanted)
        twice = call(2)[1]
        with layer.register_forward_pre_hook(lambda part, args: (wanted, *args[1:])):
            torch.testing.assert_close(twice, call(1)[1])


def test_a_prefix_is_as_long_at_every_call() -> None:
    base = tiny.base("llama", num_hidden_layers=1)
    model = get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    objective, batch = Padded(0), tiny.examples(2)
    _, wanted = outputs(model, objective, batch)
    layer, call = _layer(model, objective, batch, CPU)
    lengths = []
    with layer.register_forward_pre_hook(
        lambda part, args, named: lengths.append(named["past_key_values"].get_seq_length()), with_kwargs=True
    ):
        torch.testing.assert_close(call(1)[1], wanted)
        call(2)
    assert lengths == [3, 3, 3]


def test_keywords_without_a_cache_are_passed_on() -> None:
    named = {"position_ids": torch.ones(1)}
    assert _afresh(named) is named


def test_kept_is_what_autograd_saves_once_and_without_the_weights() -> None:
    layer = nn.Linear(3, 5)
    given = torch.ones(4, 3, requires_grad=True)

    def call(depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        return given, layer(given).sigmoid()

    assert _kept(layer, call) == 4 * (4 * 3 + 4 * 5)  # the input of the product, the result of the sigmoid
    assert _kept(layer, lambda depth: (given, (given * given) * given)) == 4 * (4 * 3 + 4 * 3)


def test_costs_are_by_the_token_and_leave_the_adapter_as_it_is() -> None:
    model, objective = adapted(), PaddingFree(False)
    before = {name: one.clone() for name, one in model.named_parameters()}
    batches = [tiny.examples(4) * times for times in (1, 2)]
    tokens = [sum(one.cost for one in batch) for batch in batches]
    few, many = found = benchmark_layer(model, objective, batches, tokens, CPU, "adamw_torch_fused")
    assert few.kept_bytes == pytest.approx(many.kept_bytes, rel=0.1)
    for costs in found:
        assert 0 < costs.forward_s < costs.both_s
        assert costs.head_s > 0
        assert costs.optimizer_s > 0
    for name, one in model.named_parameters():
        torch.testing.assert_close(one, before[name], atol=1e-6, rtol=0)


def test_operations_are_not_slowed_by_own_draws_where_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    noted = layer_benchmark._round

    def note(*args: Any) -> tuple[float, float]:
        seen.append(_get_current_dispatch_mode())
        return noted(*args)

    monkeypatch.setattr(layer_benchmark, "_round", note)
    batch = tiny.examples(4)
    for dropout in (0.0, 0.5):
        config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", lora_dropout=dropout)
        model = get_peft_model(tiny.base("llama", num_hidden_layers=1), config)
        benchmark_layer(model, PaddingFree(False), [batch], [sum(one.cost for one in batch)], CPU, "sgd")
        assert {isinstance(mode, OwnDraws) for mode in seen} == {dropout > 0}
        seen.clear()


def test_products_in_bfloat16_are_counted_by_their_shapes() -> None:
    weight = torch.ones(6, 5, dtype=torch.bfloat16)

    def call(depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        given = torch.ones(4, 5, dtype=torch.bfloat16, requires_grad=True)
        out = given @ weight.t()  # and its gradient, from pairs and from a sum, whose numbers lie otherwise
        again = given @ weight.t()
        pairs = out.view(2, 2, 6) @ torch.ones(2, 6, 3, dtype=torch.bfloat16)
        wide = given.float() @ weight.float().t()
        return given, pairs.sum() + again.sum() + wide.sum()

    assert _products(call) == (3, 2)


def test_a_layer_keeps_more_with_an_adapter_of_more_parts() -> None:
    """LoRA on one layer keeps less than on all of them."""
    batch, objective = tiny.examples(4), Padded(0)
    wide = adapted()
    narrow = adapted()
    for part in [*narrow.modules()]:
        for name, child in part.named_children():
            if name in ("gate_proj", "up_proj", "down_proj"):
                setattr(part, name, child.get_base_layer())
    kept = [_kept(*_layer(model, objective, batch, CPU)) for model in (narrow, wide)]
    assert kept[0] < kept[1]


def test_the_loss_is_timed_once_for_all_adapters_on_a_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PEFT_NB_CACHE", str(tmp_path))
    prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    found = _head_seconds(adapted())
    assert found == _head_seconds(get_peft_model(tiny.base("llama", num_hidden_layers=1), prefix)) > 0
    assert found != _head_seconds(adapted().bfloat16())

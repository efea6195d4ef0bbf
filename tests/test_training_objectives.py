"""The padding-free and prefix-shared paths give the padded path's losses and gradients, or are not taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from peft_nb.training import objectives, packing
from peft_nb.training.objectives import Padded, PaddingFree
from tests import tiny

CPU = torch.device("cpu")
EXACT = 1e-4
FITTING = [family for family in tiny.FAMILIES if family != "gemma2"]


@pytest.mark.parametrize("family", FITTING)
@pytest.mark.parametrize("prefix", [0, 12])
def test_padding_free_equals_padded(family: str, prefix: int) -> None:
    model = tiny.with_lora(tiny.base(family))
    batch = tiny.examples(prefix=prefix)
    assert (packing.pack(batch, share_prefix=True).parents != [-1] * len(batch)) == bool(prefix)
    for share in (False, True):
        assert max(objectives.disagreement(model, PaddingFree(share), Padded(0), batch, CPU)) < EXACT


@pytest.mark.parametrize("prefix", [0, 12])
def test_scores_are_those_of_the_padded_path_and_add_up_to_the_loss(prefix: int) -> None:
    model, batch = tiny.with_lora(tiny.base("llama")).eval(), tiny.examples(prefix=prefix)
    wanted = Padded(0).scores(model, batch, CPU)
    for objective in (Padded(0), PaddingFree(False), PaddingFree(True)):
        with objective.installed(model):
            found = objective.scores(model, batch, CPU)
            loss = objective.loss(model, batch, CPU)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        assert found[:, 0].sum().item() == pytest.approx(loss.item(), rel=1e-5)
        assert found[:, 2].sum() == objective.targets(batch)
    assert (wanted[:, 1] <= wanted[:, 2]).all()


@pytest.mark.parametrize("family", FITTING)
def test_the_check_chooses_the_padding_free_path_where_it_fits(family: str) -> None:
    model = tiny.with_lora(tiny.base(family))
    path = objectives.choose(model, tiny.examples(), 0, CPU, fast=True, supported=True)
    assert isinstance(path, PaddingFree), str(path)


def test_soft_capping_falls_back_with_a_reason() -> None:
    model = tiny.with_lora(tiny.base("gemma2"))
    path = objectives.choose(model, tiny.examples(), 0, CPU, fast=True, supported=True)
    assert isinstance(path, Padded)
    assert "softcapping" in path.reason


def test_soft_capped_scores_are_caught_where_they_are_computed() -> None:
    model = tiny.with_lora(tiny.base("gemma2", final_logit_softcapping=None))
    model.config.attn_logit_softcapping = None
    path = objectives.choose(model, tiny.examples(), 0, CPU, fast=True, supported=True)
    assert isinstance(path, Padded)


def test_a_path_that_differs_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def leaky(batch: list[tiny.Tokens], share_prefix: bool) -> packing.PackedRow:
        row = packing.pack(batch, share_prefix)
        return replace(row, segments=[sum(row.segments)], parents=[-1])

    monkeypatch.setattr(objectives, "pack", leaky)
    model = tiny.with_lora(tiny.base("llama"))
    path = objectives.choose(model, tiny.examples(), 0, CPU, fast=True, supported=True)
    assert isinstance(path, Padded)
    assert "differed" in path.reason


def test_dropout_keeps_prefixes_apart() -> None:
    model = tiny.with_lora(tiny.base("llama"), dropout=0.1)
    path = objectives.choose(model, tiny.examples(prefix=12), 0, CPU, fast=True, supported=True)
    assert path == PaddingFree(share_prefix=False)


def test_the_path_leaves_the_model_as_it_was() -> None:
    model = tiny.with_lora(tiny.base("llama"))
    ids = torch.tensor([[5, 6, 7, 8]])
    before = model(input_ids=ids).logits
    with PaddingFree(True).installed(model):
        pass
    assert torch.equal(model(input_ids=ids).logits, before)
    assert model.get_base_model().config._attn_implementation == "sdpa"


@pytest.mark.parametrize("padded", [False, True])
def test_micro_batches_sum_to_the_step(padded: bool) -> None:
    model = tiny.with_lora(tiny.base("llama"))
    batch = tiny.examples(9)
    path = Padded(0) if padded else PaddingFree(True)
    with path.installed(model):
        whole = path.loss(model, batch, CPU)
        cut = path.cut(batch, 40)
        parts = sum(path.loss(model, micro, CPU) for micro in cut)
    assert len(cut) > 1
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=0)


@pytest.mark.parametrize("prefix", [0, 12])
def test_bfloat16_gradients_are_as_close_to_float32_as_the_padded_path_is(prefix: int) -> None:
    batch = tiny.examples(prefix=prefix)

    def gradients(path: objectives.Path, dtype: torch.dtype) -> torch.Tensor:
        model = tiny.with_lora(tiny.base("llama", initializer_range=0.1).to(dtype))
        with path.installed(model):
            path.loss(model, batch, CPU).backward()
        return torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])

    exact = gradients(Padded(0), torch.float32)
    own, stock = (gradients(path, torch.bfloat16) for path in (PaddingFree(True), Padded(0)))
    assert (own - exact).norm() < 1.5 * (stock - exact).norm() < 0.1 * exact.norm()

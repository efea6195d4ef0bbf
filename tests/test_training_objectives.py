"""The padding-free and prefix-shared paths give the padded path's losses and gradients, or are not taken."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, BertConfig, CohereConfig, Gemma2Config, GptOssConfig, GraniteConfig

from peft_nb.training import attention, loss, objectives, packing
from peft_nb.training.objectives import Padded, PaddingFree
from tests import tiny

CPU = torch.device("cpu")
EXACT = 1e-4
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.mark.parametrize("family", tiny.FAMILIES)
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


CHUNKED = Padded(0, chunked=True)
UNPACKED: dict[str, Callable[[], Any]] = {
    **{family: partial(lambda name: tiny.with_lora(tiny.base(name)), family) for family in tiny.FAMILIES},
    "soft prompt": lambda: tiny.with_prompt(tiny.base("llama")),
    "prefix": lambda: tiny.with_prompt(tiny.base("llama"), PrefixTuningConfig),
    "trained head": lambda: with_head("saved whole"),
    "LoRA on a capped head": lambda: with_head("LoRA", "gemma2", final_logit_softcapping=3.0),
}


@pytest.mark.parametrize("name", UNPACKED)
def test_a_padded_loss_by_the_chunk_is_the_same_and_never_holds_all_logits(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = UNPACKED[name]().eval(), tiny.examples()
    monkeypatch.setattr(loss, "chunk_rows", lambda weight: 3)
    assert max(objectives.disagreement(model, CHUNKED, Padded(0), batch, CPU)) < 1e-5
    heads: list[Any] = []
    hook = model.get_base_model().get_output_embeddings().register_forward_hook(lambda *called: heads.append(called))
    with CHUNKED.installed(model):
        found = CHUNKED.scores(model, batch, CPU)
    assert heads == []  # the head never came to compute
    hook.remove()
    torch.testing.assert_close(found, Padded(0).scores(model, batch, CPU), rtol=1e-5, atol=1e-5)
    assert "forward" not in vars(model.get_base_model())


@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral"])
def test_a_step_waits_for_no_number_of_the_device(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "equal", lambda one, other: True)  # asked before the steps, and not of these
    meta = torch.device("meta")  # where there are no numbers that one could wait for
    model = tiny.with_lora(tiny.base(family)).to(meta)
    with PaddingFree(True).installed(model):
        PaddingFree(True).loss(model, tiny.examples(prefix=12), meta).backward()


def test_where_no_prefix_can_stand_the_loss_is_by_the_chunk_unless_fast_is_off() -> None:
    model = tiny.with_prompt(tiny.base("llama"))
    path = objectives.choose(model, tiny.examples(), 0, CPU, fast=True, supported=False)
    assert path == Padded(0, "the method adds virtual tokens", chunked=True)
    path = objectives.choose(model, tiny.examples(), 0, CPU, fast=False, supported=False)
    assert path == Padded(0, "fast is off")


HEADS: dict[str, dict[str, Any]] = {
    "LoRA": {"target_modules": ["q_proj", "lm_head"]},
    "LoRA alone": {"target_modules": ["lm_head"]},
    "saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


def with_head(name: str, family: str = "llama", dtype: torch.dtype = torch.float32, **changes: object) -> Any:
    """A model whose head is trained, by parameters that are not zero."""
    model = tiny.base(family, tie_word_embeddings=False, **changes).to(dtype)
    adapted = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM", **HEADS[name])).eval()
    generator = torch.Generator().manual_seed(1)
    for one in adapted.parameters():
        if one.requires_grad:
            one.data += torch.randn(one.shape, generator=generator) * 0.2
    return adapted


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("prefix", [0, 12])
def test_a_head_that_is_trained_takes_the_padding_free_path(name: str, family: str, prefix: int) -> None:
    capped = {"final_logit_softcapping": 3.0} if family == "gemma2" else {}
    model, batch = with_head(name, family, **capped), tiny.examples(prefix=prefix)
    assert objectives.choose(model, batch, 0, CPU, fast=True, supported=True) == PaddingFree(share_prefix=True)
    assert max(objectives.disagreement(model, PaddingFree(True), Padded(0), batch, CPU)) < EXACT
    for adapter in (nullcontext(), model.disable_adapter()):
        with adapter:
            wanted = Padded(0).scores(model, batch, CPU)
            with PaddingFree(True).installed(model):
                torch.testing.assert_close(PaddingFree(True).scores(model, batch, CPU), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"lora_dropout": 0.1}, {"use_dora": True}], ids=str)
def test_a_head_with_more_than_plain_lora_is_left_to_the_padded_path(options: dict[str, Any]) -> None:
    base = tiny.base("llama", tie_word_embeddings=False)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["lm_head"], task_type="CAUSAL_LM", **options))
    path = objectives.choose(model, tiny.examples(), 0, CPU, fast=True, supported=True)
    assert path == Padded(0, "the output head has more than plain LoRA on it")


def weighed(path: Any, model: Any, batch: list[tiny.Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities, and the gradient of an objective that weighs tokens, sequences, and both signs of them."""
    with path.installed(model):
        found = path.log_probs(model, batch, CPU)
        assert [len(one) for one in found] == [len(packing.supervised_targets(one)) for one in batch]
        signs = [(-1) ** number * torch.linspace(0.5, 1.5, len(one)) for number, one in enumerate(found)]
        sums = torch.stack([(one * by).sum() for one, by in zip(found, signs, strict=True)])
        torch.nn.functional.softplus(sums / 20).sum().backward()
    gradient = torch.cat([one.grad.flatten().float() for one in model.parameters() if one.grad is not None])
    model.zero_grad()
    return torch.cat(found).detach(), gradient


def plain(model: Any, batch: list[tiny.Tokens]) -> torch.Tensor:
    """Log-probabilities of the targets of each text alone, by the log-softmax of all its logits."""
    found = []
    for one in batch:
        scores = model(input_ids=torch.tensor([one.ids])).logits[0].float().log_softmax(-1)
        found += [scores[place - 1, one.ids[place]] for place in packing.supervised_targets(one)]
    return torch.stack(found).detach()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("prefix", [0, 12])
def test_log_probabilities_are_those_of_all_logits_and_can_be_weighed_one_by_one(family: str, prefix: int) -> None:
    model, batch = tiny.with_lora(tiny.base(family)), tiny.examples(prefix=prefix)
    wanted, expected = weighed(Padded(0), model, batch)
    torch.testing.assert_close(wanted, plain(model, batch), rtol=1e-5, atol=1e-5)
    for path in (PaddingFree(False), PaddingFree(True)):
        found, gradient = weighed(path, model, batch)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        assert (gradient - expected).norm() < EXACT * expected.norm()


@pytest.mark.parametrize("name", [None, *HEADS])
def test_in_bfloat16_weighed_log_probabilities_are_as_near_to_float32_as_the_padded_paths(name: str | None) -> None:
    batch, found = tiny.examples(prefix=12), []
    for path, dtype in ((Padded(0), torch.float32), (PaddingFree(True), torch.bfloat16), (Padded(0), torch.bfloat16)):
        small = {"initializer_range": 0.1}
        model = with_head(name, dtype=dtype, **small) if name else tiny.with_lora(tiny.base("llama", **small).to(dtype))
        found.append(weighed(path, model, batch))
    for exact, own, stock in zip(*found, strict=True):
        assert (own - exact).norm() < 1.5 * (stock - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_check_chooses_the_padding_free_path_where_it_fits(family: str) -> None:
    model = tiny.with_lora(tiny.base(family))
    path = objectives.choose(model, tiny.examples(), 0, CPU, fast=True, supported=True)
    assert isinstance(path, PaddingFree), str(path)


RESHAPED = {
    "soft-capped": Gemma2Config(**tiny.GROUPED, head_dim=8, attn_logit_softcapping=0.5, final_logit_softcapping=3.0),
    "scaled": CohereConfig(**tiny.GROUPED, logit_scale=0.3, pad_token_id=0),
    "divided": GraniteConfig(**tiny.GROUPED, logits_scaling=3.0, embedding_multiplier=2.0, residual_multiplier=0.5),
    "sinks": GptOssConfig(
        **tiny.GROUPED, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=6, eos_token_id=1
    ),
}


@pytest.mark.parametrize("name", RESHAPED)
@pytest.mark.parametrize("prefix", [0, 12])
def test_what_families_make_of_their_scores_is_followed(name: str, prefix: int) -> None:
    torch.manual_seed(0)
    config = RESHAPED[name].__class__(**{**RESHAPED[name].to_dict(), "initializer_range": 0.2})
    model = tiny.with_lora(AutoModelForCausalLM.from_config(config).requires_grad_(False), targets=ATTENTION).eval()
    batch = tiny.examples(prefix=prefix)
    assert objectives.choose(model, batch, 0, CPU, fast=True, supported=True) == PaddingFree(share_prefix=True)
    assert max(objectives.disagreement(model, PaddingFree(True), Padded(0), batch, CPU)) < EXACT
    assert max(objectives.disagreement(model, CHUNKED, Padded(0), batch, CPU)) < 1e-5
    with PaddingFree(True).installed(model):
        found = PaddingFree(True).scores(model, batch, CPU)
    torch.testing.assert_close(found, Padded(0).scores(model, batch, CPU), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"])
def test_a_formula_that_is_not_followed_is_caught(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model = tiny.with_lora(tiny.base("gemma2", attn_logit_softcapping=0.5, final_logit_softcapping=3.0))
    inner = objectives._scorer

    def other(causal: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(causal.config, "final_logit_softcapping", None)
            return inner(causal)

    if name == "final_logit_softcapping":
        monkeypatch.setattr(objectives, "_scorer", other)
    else:
        keyword = "softcap" if name.startswith("attn") else "scaling"
        attend = attention.segment_attention
        monkeypatch.setitem(
            attention.AttentionInterface._global_mapping,
            attention.NAME,
            lambda *given, **options: attend(*given, **{**options, keyword: None}),
        )
    path = objectives.choose(model, tiny.examples(), 0, CPU, fast=True, supported=True)
    assert "differed" in str(path)
    assert isinstance(path, Padded)
    assert path.chunked == (name != "final_logit_softcapping")  # which the padded path leaves to the model then


@pytest.mark.parametrize("supported", [False, True])
def test_what_a_model_makes_of_its_logits_is_found_also_where_they_are_small(
    supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.with_lora(tiny.base("gemma2", initializer_range=0.02, final_logit_softcapping=30.0))
    followed = objectives.choose(model, tiny.examples(), 0, CPU, fast=True, supported=supported)
    monkeypatch.setattr(objectives, "CAPS", ("as another family calls it",))
    assert max(objectives.disagreement(model, CHUNKED, Padded(0), tiny.examples(), CPU)) < 1e-3  # hardly to be seen
    found = objectives.choose(model, tiny.examples(), 0, CPU, fast=True, supported=supported)
    if supported:
        assert followed == PaddingFree(True)
        assert found == Padded(0, "Gemma2ForCausalLM makes more of its logits than is followed")
    else:
        assert followed == replace(found, chunked=True)
        assert found == Padded(0, "the method adds virtual tokens")


def test_a_head_with_more_than_a_product_is_left_out_of_nothing() -> None:
    config = BertConfig(**tiny.WIDE, is_decoder=True, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    model = tiny.with_lora(AutoModelForCausalLM.from_config(config).requires_grad_(False))
    path = objectives.choose(model, tiny.examples(), 0, CPU, fast=True, supported=True)
    assert path == Padded(0, "the padding-free path leaves out a part that is trained", chunked=True)
    assert max(objectives.disagreement(model, path, Padded(0), tiny.examples(), CPU)) < 1e-5


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

"""What methods can do is told from the registry alone, and what they cannot in a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from peft_nb.errors import MethodError, PeftNbError, SpecError
from peft_nb.methods import REGISTRY, attach, methods
from peft_nb.runs.run import begin
from peft_nb.spec import METHODS, RunSpec
from tests.every_method import NAMES, NEEDED, forms


@pytest.mark.parametrize(("name", "quantization"), [*forms(listed=False)])
def test_a_quantization_that_is_not_listed_is_refused(
    spec: Callable[..., RunSpec], rows: list[Any], name: str, quantization: str
) -> None:
    with pytest.raises(SpecError, match=rf"^quantization: {name} takes .*, not {quantization}(; .* do)?$"):
        begin(spec(method=name, quantization=quantization, **NEEDED.get(name, {})), data=rows)


@pytest.mark.parametrize("name", [name for name in NAMES if not REGISTRY[name].serves("SEQ_CLS")])
def test_a_task_that_is_not_listed_is_refused(spec: Callable[..., RunSpec], labelled: list[Any], name: str) -> None:
    refused = rf"^method: {name} serves generation, dpo, .*, not classification; take lora, "
    with pytest.raises(SpecError, match=refused) as told:
        begin(spec(method=name, task="classification", **NEEDED.get(name, {})), data=labelled)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"method": "prompt", "r": 8}, "r: prompt has no rank; it has num_virtual_tokens"),
        ({"method": "ia3", "dropout": 0.1}, "dropout: ia3 has no dropout; it has target_modules"),
        ({"method": "lora", "num_virtual_tokens": 5}, "num_virtual_tokens: lora has no virtual tokens; it has r, "),
        ({"method": "adaption-prompt", "alpha": 5}, "alpha: adaption-prompt has no scale; it has num_virtual_tokens"),
        ({"method": "beft", "r": 5}, "r: beft has no rank; it has none of these fields"),
        (
            {"method": "oft", "method_options": {"oft_block_sise": 8}},
            "method_options: oft has no 'oft_block_sise'; did you mean 'oft_block_size'?",
        ),
        (
            {"method": "lora", "method_options": {"lora_alpha": 8}},
            "method_options: lora_alpha is the field alpha; set that",
        ),
        ({"method": "trainable-tokens"}, "method_options: trainable-tokens needs token_indices"),
    ],
    ids=str,
)
def test_what_a_method_has_no_use_for_is_told_before_anything_is_loaded(
    spec: Callable[..., RunSpec], rows: list[Any], fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(SpecError) as raised:
        begin(spec(**fields, model="no/such"), data=rows)
    (problem,) = raised.value.problems
    assert problem.startswith(told)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"method": "lora", "target_modules": ["nope"]}, r"target_modules: \['nope'\] fits no layer of LlamaFor"),
        ({"method": "boft", "method_options": {"boft_block_size": 7}}, "method: boft does not fit LlamaForCausalLM: "),
        ({"method": "adalora", "r": 8, "method_options": {"init_r": 8}}, "init_r 8 leaves no rank to take away"),
        (
            {"method": "lora", "method_options": {"bias": 3}},
            "method: lora does not fit LlamaForCausalLM: .*; look at its method_options$",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_told_in_a_line(fields: dict[str, Any], told: str) -> None:
    from tests.tiny import base

    with pytest.raises(MethodError, match=told) as raised:
        attach(base("llama"), RunSpec(data="none", **fields), "base")
    assert "\n" not in str(raised.value)


def test_the_list_of_methods_is_complete_and_short() -> None:
    table = methods()
    assert [*table.index] == [*METHODS]
    assert not (table == "").any(axis=None)
    assert table["what it does"].str.len().max() <= 120


def test_a_misspelt_method_is_told_the_nearest() -> None:
    with pytest.raises(PeftNbError, match="did you mean 'adalora'"):
        RunSpec(data="none", method="adalorra")

"""The base of a run, found and loaded, with its adapter on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peft_nb.data.sources import IN_MEMORY
from peft_nb.errors import ModelError
from peft_nb.events import Event, Preparing
from peft_nb.models.resolve import resolve
from peft_nb.runs import model as models
from peft_nb.runs.context import Inputs
from peft_nb.runs.run import Run, load
from peft_nb.spec import RunSpec
from peft_nb.store import Facts, Store

Start = Callable[..., Run]


@pytest.fixture
def pair(base: Path) -> Any:
    """A live model and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)


def test_a_run_goes_on_in_the_data_type_it_began_with(start: Start, store: Store) -> None:
    run = start(dtype="auto", max_steps=2).wait()
    other = "bfloat16" if run.facts.dtype == "float32" else "float32"
    store.set_facts(run.id, replace(run.facts, dtype=other))
    assert str(load(run.id, store=store).model.dtype) == f"torch.{other}"


def test_a_live_model_that_is_gone_is_asked_for(pair: Any) -> None:
    spec = RunSpec(data="x", model=IN_MEMORY)
    with pytest.raises(ModelError, match=r"pass it again: peft_nb.load\(id, model=\(model, tokenizer\)\)$"):
        models.find(spec, Inputs())
    assert models.find(spec, Inputs(model=pair)).pair[0] is pair[0]


def test_others_know_a_base_by_its_public_name(base: Path, pair: Any) -> None:
    assert models.public_name(resolve("smollm2-135m")) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert models.public_name(resolve(str(base))) == str(base)
    assert models.public_name(resolve(pair)) == str(base)


def test_a_base_is_loaded_once_and_in_what_the_run_began_with(base: Path) -> None:
    spec, heard = RunSpec(data="x", model=str(base), dtype="float32", device="cpu"), list[Event]()
    source = models.find(spec, Inputs())
    one, same = (models.load_base(spec, source, Facts(), heard.append) for _ in range(2))
    assert one is same
    assert (one.dtype, heard[0]) == ("float32", Preparing(f"loading {base}"))
    assert models.load_base(spec, source, Facts(dtype="bfloat16"), heard.append).dtype == "bfloat16"


def test_a_saved_adapter_on_its_base_is_the_model_of_the_run(finished: Run) -> None:
    import torch

    base = models.load_base(finished.spec, models.find(finished.spec, Inputs()), finished.facts, lambda event: None)
    again = models.adapted(finished.spec, base, finished.facts, str(finished.adapter_dir))
    ids = torch.tensor([[5, 60, 7, 100]])
    with torch.inference_mode():
        assert torch.equal(again(input_ids=ids).logits, finished.model(input_ids=ids).logits)
    assert not again.training

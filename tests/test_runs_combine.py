"""Runs combined into one, and refused where PEFT would get them wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import peft_nb
from peft_nb.errors import MethodError, PeftNbError, RunError
from peft_nb.models.plain import bare
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import RunSpec
from peft_nb.store import Store

pytestmark = pytest.mark.exhaustive

IDS = torch.tensor([[1, 60, 7, 100, 9, 300, 12, 2]])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("several"))


@pytest.fixture(scope="module")
def learn(spec: Callable[..., RunSpec], rows: list[dict[str, str]], runs: Store) -> Callable[..., Run]:
    def learn(**fields: Any) -> Run:
        return begin(spec(**{"max_steps": 3, "r": 4, **fields}), data=rows, store=runs).wait()

    return learn


@pytest.fixture(scope="module")
def two(learn: Callable[..., Run]) -> tuple[Run, Run]:
    return learn(), learn(seed=1, alpha=4)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits


def folded(parents: dict[Run, float]) -> torch.Tensor:
    """Logits of the base with the weighted sum of the updates in its weights, worked out by hand."""
    model = bare(next(iter(parents)).model)
    for name, module in model.named_modules():
        for run, weight in parents.items():
            layer = run.model.get_base_model().get_submodule(name)
            if hasattr(layer, "get_delta_weight"):
                updated = module.weight.data + weight * layer.get_delta_weight("default")
                module.weight = torch.nn.Parameter(updated)
    return logits(model)


def test_cat_is_the_sum_of_the_updates(two: tuple[Run, Run], runs: Store) -> None:
    first, second = two
    before = [logits(run.model) for run in two]
    run = peft_nb.combine({first: 0.7, second: -0.3}, name="both")
    assert run.status == "finished"
    assert (run.spec.method, run.spec.r, run.spec.name) == ("lora", 8, "both")
    assert run.metrics["parents"] == {first.id: 0.7, second.id: -0.3}
    torch.testing.assert_close(logits(run.model), folded({first: 0.7, second: -0.3}), atol=1e-4, rtol=1e-4)
    assert all(torch.equal(logits(run.model), was) for run, was in zip(two, before, strict=True))
    again = load("both", store=runs)
    assert torch.equal(logits(again.model), logits(run.model))
    assert again.generate("Hello", max_new_tokens=4) == run.generate("Hello", max_new_tokens=4)


def test_a_combined_run_is_merged_on_the_rows_of_its_parents(two: tuple[Run, Run], tmp_path: Path) -> None:
    run = peft_nb.combine({two[0]: 1.0, two[1]: 0.5})
    assert run.merge(tmp_path / "merged").judged_on == "2 evaluation rows"


@pytest.mark.parametrize(
    ("fields", "how", "said"),
    [
        ({"method": "dora"}, "cat", "'cat' cannot combine dora-.*: at weight 1.0 alone .*; no other how does; lora,"),
        ({"method": "prefix", "r": None}, "cat", "PEFT cannot combine adapters of the kind prefix_tuning"),
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in (
                ({"method_options": {"lora_bias": True}}, "svd", "'svd' cannot combine lora-.*: at weight 1.0 alone"),
                ({"method": "ia3", "r": None}, "cat", "'cat' cannot combine ia3-.*; how='linear' does"),
                ({"method": "full", "r": None}, "cat", "PEFT cannot combine adapters of the kind full; lora"),
                ({"method": "adalora"}, "cat", "PEFT cannot combine adapters of the kind adalora"),
            )
        ),
    ],
)
def test_what_peft_gets_wrong_is_refused_and_leaves_no_run(
    learn: Callable[..., Run], runs: Store, fields: dict[str, Any], how: str, said: str
) -> None:
    run = learn(**fields)
    count = len(runs.all())
    with pytest.raises(MethodError, match=said) as refused:
        peft_nb.combine({run: 1.0}, how)
    assert "\n" not in str(refused.value)
    assert len(runs.all()) == count


def test_ia3_is_combined_by_what_works_for_it(learn: Callable[..., Run]) -> None:
    run = learn(method="ia3", r=None, learning_rate=0.1)
    alone = peft_nb.combine({run: 1.0}, "linear")
    assert alone.spec.method == "ia3"
    torch.testing.assert_close(logits(alone.model), logits(run.model), atol=1e-4, rtol=1e-4)


def test_quantized_bases_are_combined_on_themselves(learn: Callable[..., Run]) -> None:
    run = learn(method="qlora")
    alone = peft_nb.combine({run: 1.0})
    assert alone.spec.quantization == "4bit"
    torch.testing.assert_close(logits(alone.model), logits(run.model), atol=1e-4, rtol=1e-4)
    again = load(alone.id, store=alone.store)
    assert torch.equal(logits(again.model), logits(alone.model))


def test_mistakes_are_one_line(two: tuple[Run, Run], learn: Callable[..., Run], base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "other")
    other = learn(model=str(tmp_path / "other"))
    for runs, options, said in [
        ({}, {}, "combine() takes runs with their weights"),
        ({two[0]: "much"}, {}, "'much' is no weight; give a finite number"),
        ({two[0]: float("nan")}, {}, "nan is no weight"),
        ({two[0]: 1}, {"how": "tie"}, "how: 'tie' is no way to combine; did you mean 'ties'?"),
        ({two[0]: 1}, {"how": "ties", "density": 0}, "density: 0 is no share"),
        ({two[0]: 1, other: 1}, {}, "only adapters of one base can be combined"),
        ({two[0]: 1, learn(r=2): 1}, {"how": "linear"}, "All adapters must have the same r value"),
    ]:
        with pytest.raises(PeftNbError) as refused:
            peft_nb.combine(runs, **options)
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)
    active = begin(two[0].spec, data=[{"text": "a b c d e f"}] * 50, store=two[0].store)
    with pytest.raises(RunError, match="call wait"):
        peft_nb.combine({active: 1.0})
    active.stop(now=True)
    active._thread.wait(60)

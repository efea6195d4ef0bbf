"""Runs that start from an earlier adapter: exactly where it ended, on the same base, or refused with the difference."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from peft_nb.errors import MethodError, SpecError
from peft_nb.events import Notice
from peft_nb.runs import init_adapter
from peft_nb.runs.context import Context, Inputs
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from peft_nb.ui.lineage import tree
from tests.conftest import few, stop_at
from tests.every_method import NEEDED, RATES, logits

WEIGHTS = "adapter_model.safetensors"
Begin = Callable[..., Run]


@pytest.fixture(scope="module")
def begun(spec: Callable[..., RunSpec], rows: list[dict[str, str]], runs: Store) -> Begin:
    """Train on the rows, which are evaluated on too, so that their losses can be compared."""

    def begun(*listeners: Any, namespace: dict[str, Any] | None = None, **fields: Any) -> Run:
        usual = {"eval_data": "rows", "max_steps": 3, "eval_steps": None, "r": 4}
        if fields.get("method", "lora") != "lora" or "init_adapter" in fields:
            del usual["r"]
        known = {"rows": rows, **(namespace or {})}
        return begin(spec(**{**usual, **fields}), data=rows, namespace=known, store=runs, listeners=listeners).wait()

    return begun


@pytest.fixture(scope="module")
def first(begun: Begin) -> Run:
    """A named run to start from."""
    return begun(name="tickets", alpha=12)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.adapter_dir / WEIGHTS)


def eval_losses(run: Run) -> list[float]:
    return run.history["eval_loss"].dropna().tolist()


def refused(begun: Begin, **fields: Any) -> str:
    with pytest.raises(SpecError) as error:
        begun(**fields)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_training_starts_where_the_earlier_run_ended(first: Run, begun: Begin, runs: Store) -> None:
    told: list[Any] = []
    run = begun(told.append, init_adapter=first, seed=7)
    assert run.spec.init_adapter == first.id
    assert (run.spec.r, run.spec.alpha, run.spec.target_modules) == (4, 12.0, "all-linear")
    start, end = eval_losses(run)
    assert start == pytest.approx(eval_losses(first)[-1], abs=1e-6)
    assert end < start
    assert run.metrics["base_eval_loss"] == first.metrics["base_eval_loss"]  # of the base, not of what it starts from
    assert run.metrics["base_token_accuracy"] == first.metrics["base_token_accuracy"]
    said = f"training starts from the adapter of tickets v1 · {first.id}; taken from it: r 4, alpha 12"
    assert Notice(f"{said}, target_modules all-linear") in told
    assert load(run.id, store=runs).spec == run.spec


def test_lineage_card_and_summary_name_the_adapter(first: Run, begun: Begin, runs: Store) -> None:
    from peft_nb.ui import live, summary

    run = begun(init_adapter="tickets@v1")
    (parent,) = runs.lineage(run.id).parents
    assert parent.record.id == first.id
    drawn = repr(tree(runs.lineage(run.id)))
    named = f"tickets v1 · {first.id}, weights "
    assert f"init adapter: {named}" in drawn
    assert f"created from\n   └─ tickets v1 · {first.id}" in drawn
    assert run.id in repr(tree(runs.lineage("tickets")))
    assert "Training started from an earlier adapter: tickets v1" in (run.adapter_dir / "README.md").read_text()
    shown = dict(summary.rows(live.view_of(run), live._told(run)))
    assert shown["init adapter"].startswith(named)


def test_variables_folders_and_words_of_the_store_name_adapters(first: Run, runs: Store, tmp_path: Path) -> None:
    saved = first.save(tmp_path / "saved")
    elsewhere = Store(tmp_path / "other")
    found = {word: init_adapter.find(word, runs, {"best": first}) for word in ("best", "tickets", first.id)}
    assert {start.word for start in found.values()} == {first.id}
    assert all(start.parents == [first.id] for start in found.values())
    folder = init_adapter.find(str(saved), runs)
    assert (folder.word, folder.parents, folder.title) == (str(saved), [], "saved")
    beside = init_adapter.find("best", elsewhere, {"best": first})  # which the other store cannot name
    assert (beside.word, beside.parents) == (str(first.adapter_dir.resolve()), [])


@pytest.mark.parametrize(
    "method", few([*("lora", "bitfit", "bottleneck", "ia3", "prefix"), "lora-plus", "dora", "full", "prompt"], "bitfit")
)
def test_every_kind_of_adapter_is_trained_on(method: str, begun: Begin) -> None:
    fields = {"method": method, "learning_rate": RATES.get(method, 1e-2), **NEEDED.get(method, {})}
    if method == "bottleneck":
        fields["method_options"] = {"reduction_factor": 8}
    earlier = begun(**fields)
    fields.pop("method_options", None)
    run = begun(**fields, init_adapter=earlier.id)
    start, end = eval_losses(run)
    assert start == pytest.approx(eval_losses(earlier)[-1], rel=1e-6)
    assert end < start
    assert weights(earlier).keys() == weights(run).keys()
    with earlier.model.disable_adapter(), run.model.disable_adapter():
        assert torch.equal(logits(earlier.model), logits(run.model))


@pytest.mark.parametrize("quantization", few(["4bit", "8bit"], "4bit"))
def test_a_quantized_base_is_started_on_as_well(quantization: str, begun: Begin) -> None:
    earlier = begun(method="qlora", quantization=quantization)
    run = begun(method="qlora", quantization=quantization, init_adapter=earlier.id)
    assert eval_losses(run)[0] == pytest.approx(eval_losses(earlier)[-1], rel=1e-5)


def test_a_resumed_run_ends_as_an_undisturbed_one(first: Run, begun: Begin, runs: Store) -> None:
    wanted = {"init_adapter": first.id, "max_steps": 4, "save_steps": 1}
    whole, stopped = begun(**wanted), begun(stop_at(2), **wanted)
    assert stopped.status == "stopped"
    resumed = load(stopped.id, store=runs).resume()
    for name, one in weights(whole).items():
        assert torch.equal(one, weights(resumed)[name])
    assert eval_losses(resumed) == eval_losses(whole)
    assert resumed.metrics["base_eval_loss"] == first.metrics["base_eval_loss"]


def test_pissa_saves_a_lora_that_is_trained_on_as_one(begun: Begin) -> None:
    earlier = begun(method="pissa", r=2)
    assert refused(begun, method="pissa", init_adapter=earlier.id) == (
        "init_adapter: pissa cannot start from an adapter: it begins with a part of the weights, and saves a LoRA; "
        "write method: lora to train that on"
    )
    run = begun(init_adapter=earlier.id)
    assert run.spec.r == 4
    assert eval_losses(run)[0] == pytest.approx(eval_losses(earlier)[-1], rel=1e-4)


def test_what_differs_is_refused_before_anything_is_loaded(first: Run, begun: Begin) -> None:
    start = {"init_adapter": first.id}
    title = f"tickets v1 · {first.id}"
    assert refused(begun, **start, r=8) == f"r: {title} has 4, not 8; leave it out"
    assert refused(begun, **start, alpha=1) == f"alpha: {title} has 12, not 1; leave it out"
    wanted = f"init_adapter: {title} is an adapter of method lora, not {{}}; write method: lora"
    for method in ("rslora", "dora", "ia3", "bitfit"):
        assert refused(begun, **start, method=method) == wanted.format(method)
    classifier = RunSpec(data="x", task="classification", model=first.spec.model, **start)
    with pytest.raises(SpecError) as told:
        init_adapter.described(classifier, init_adapter.find(first.id, first.store))
    wrong = f"init_adapter: {title} was trained for generation, not classification; write task: generation"
    assert str(told.value) == wrong
    assert refused(begun, init_adapter="tikets").startswith("init_adapter: there is no run 'tikets' in ")
    assert "ranks away" in refused(begun, **start, method="adalora")
    assert "its network wrote" in refused(begun, **start, method="p-tuning")


def test_another_base_is_refused_by_name_or_weights(first: Run, begun: Begin, base: Path, tmp_path: Path) -> None:
    saved = first.save(tmp_path / "saved")
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "org/other"}))
    said = refused(begun, init_adapter=str(saved), model="smollm2-135m")
    assert said.startswith("init_adapter: saved was trained on org/other, not HuggingFaceTB/SmolLM2-135M-Instruct; ")
    from safetensors.torch import save_file

    other = tmp_path / "base"
    shutil.copytree(base, other)
    tensors = load_file(other / "model.safetensors")
    save_file({name: one + 1e-3 for name, one in tensors.items()}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(MethodError, match="and this base has other weights"):
        begun(init_adapter=first.id, model=str(other))


def test_another_shape_that_only_the_weights_tell_is_refused(first: Run, begun: Begin, tmp_path: Path) -> None:
    saved = first.save(tmp_path / "saved")
    with pytest.raises(MethodError, match=r"init_adapter: saved has another shape: of .*lora_A"):
        begun(init_adapter=str(saved), target_modules=".*q_proj")


def test_a_removed_source_is_named_where_it_is_needed_and_only_there(begun: Begin, runs: Store, tmp_path: Path) -> None:
    first = begun(name="brief")
    whole = begun(stop_at(2), init_adapter=first.id, save_steps=1, max_steps=5)
    never = begun(init_adapter=first.id, max_steps=1)
    shutil.rmtree(never.folder / "adapter")
    runs.remove(first.id, why="a test")
    assert load(whole.id, store=runs).resume().status == "finished"  # from its own checkpoint
    assert refused(begun, init_adapter=first.id).startswith(f"init_adapter: {first.id} was removed on ")
    started = init_adapter.needed
    from peft_nb.runs.context import Context

    with pytest.raises(SpecError, match="was removed on"):
        started(Context(whole.spec, folder=runs.folder_of(never.id)))


@pytest.mark.exhaustive
def test_a_script_starts_from_the_adapter_too(first: Run, begun: Begin, tmp_path: Path, python: Any) -> None:
    run = begun(init_adapter=first.id)
    script = run.export(tmp_path / "out")
    process = python(script)
    lines = [json.loads(line) for line in process.communicate()[0].splitlines()]
    assert process.returncode == 0
    assert lines[0]["eval_loss"] == pytest.approx(eval_losses(run)[0], abs=1e-5)
    assert lines[-1]["eval_loss"] == pytest.approx(eval_losses(run)[-1], abs=1e-4)


def test_an_adapter_that_was_brought_along_stands_for_the_one_that_is_named(tmp_path: Path) -> None:
    brought = tmp_path / "start"
    brought.mkdir()
    (brought / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (brought / "adapter_model.safetensors").write_bytes(b"")
    context = Context(RunSpec(data="x", init_adapter="lora-000000"), folder=tmp_path / "runs" / "lora-abc")
    context.folder.mkdir(parents=True)
    with pytest.raises(SpecError, match="there is no run 'lora-000000'"):
        init_adapter.needed(context)
    context.inputs = Inputs(adapter=brought)
    start = init_adapter.needed(context)
    assert start is not None
    assert (start.folder, start.config) == (brought, {"peft_type": "LORA"})

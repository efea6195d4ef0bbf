"""Whole runs that learn to label texts: on an encoder and on a causal model, alone and beside other runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from peft_nb.errors import DataError, RunError
from peft_nb.events import Scored
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests.conftest import KINDS, Python, stop_at

pytestmark = pytest.mark.exhaustive

Classify = Callable[..., Run]
TEXTS = ["the fig in the yard", "a red owl", "we drill in the red red yard", "crow"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def classify(encoder: Path, labelled: list[dict[str, str]], runs: Store) -> Classify:
    """Begin a run on the tiny encoder and the texts; the last third is held out."""

    def classify(*listeners: Any, data: Any = None, **fields: Any) -> Run:
        given = labelled if data is None else data
        names = {"learned": given[: len(given) * 2 // 3], "asked": given[len(given) * 2 // 3 :]}
        wanted = {"model": str(encoder), "data": "learned", "eval_data": "asked", "task": "classification"}
        small = {"dtype": "float32", "device": "cpu", "batch_size": 20, "max_steps": 80, "learning_rate": 0.005}
        spec = RunSpec(**wanted | small | {"eval_steps": 20} | fields)
        return begin(spec, namespace=names, store=runs, listeners=listeners)

    return classify


@pytest.fixture(scope="module")
def several(labelled: list[dict[str, str]]) -> list[dict[str, Any]]:
    """479 texts of two of the former, or twice one of them, with the labels of both."""
    return [
        {"text": f"{one['text']} {other['text']}", "labels": sorted({one["label"], other["label"]})}
        for one, other in pairwise(labelled)
    ]


@pytest.fixture(scope="module")
def mean(classify: Classify) -> Run:
    return classify().wait()


@pytest.fixture(scope="module")
def head(classify: Classify, plain_encoder: Path) -> Run:
    return classify(model=str(plain_encoder)).wait()


@pytest.fixture(scope="module")
def causal(classify: Classify, base: Path) -> Run:
    return classify(model=str(base)).wait()


@pytest.fixture(scope="module")
def multi(classify: Classify, several: list[dict[str, Any]]) -> Run:
    return classify(data=several, max_steps=160).wait()


def losses(run: Run) -> list[float]:
    history = run.history
    return history.loss[history.loss.notna()].tolist()


@pytest.mark.parametrize("name", ["mean", "head", "causal"])
def test_classes_are_learned(name: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(name)
    metrics = run.metrics
    assert metrics["accuracy"] > 0.9
    scored = [event for event in run.events() if isinstance(event, Scored)]
    assert scored[-1].metrics["accuracy"] == metrics["accuracy"]
    assert scored[-1].metrics["macro_f1"] == metrics["macro_f1"]
    assert scored[-1].step == metrics["steps"]
    assert metrics["macro_f1"] > 0.9
    assert metrics["eval_loss"] < 0.5 * metrics["base_eval_loss"]
    assert run.facts.task["classes"] == sorted(KINDS)
    assert (metrics["path"], run.facts.task["pooling"] == "mean") == ("padding-free", name == "mean")
    assert sum(count for _, _, count in metrics["confusion"]) == metrics["eval_examples"] == 160
    found = run.predict(TEXTS)
    assert found.label.tolist() == ["fruit", "bird", "tool", "bird"]
    assert (found[sorted(KINDS)].max(axis=1) == found.probability).all()
    assert run.predict("a red owl").label.tolist() == ["bird"]


def test_several_classes_are_learned(multi: Run) -> None:
    metrics = multi.metrics
    assert multi.facts.task["multi_label"] is True
    assert metrics["micro_f1"] > 0.9
    assert metrics["accuracy"] > 0.8
    assert "confusion" not in metrics
    assert [texts > 0 < right <= min(texts, given) for texts, given, right in metrics["class_counts"]] == [True] * 3
    found = multi.predict(["fig saw", "the owl and the plum"])
    assert found.label.tolist() == [["fruit", "tool"], ["bird", "fruit"]]


IN_ANOTHER_PROCESS = """
import json, sys
import torch
from peft_nb.runs.run import load
from peft_nb.store import Store

store, texts, names = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
for name in names:
    run = load(name, store=Store(store))
    found = run.predict(texts)
    print(json.dumps(found[sorted(run.facts.task["classes"])].values.tolist()))
    lines = (run.adapter_dir / "README.md").read_text().split("```python\\n")[1].split("```")[0]
    base = run.model.peft_config["default"].base_model_name_or_path
    lines = lines.replace("path/to/" + base.rpartition("/")[2], base).replace("path/to/this/folder", str(run.adapter_dir)).replace('["a text", "another, somewhat longer one"]', "GIVEN")
    said = {"GIVEN": texts}
    with torch.no_grad():
        exec(lines, said)
    print(json.dumps((said["logits"].sigmoid() if run.facts.task["multi_label"] else said["logits"].softmax(-1)).tolist()))
"""  # noqa: E501


def test_another_process_finds_the_same_and_so_do_the_lines_of_the_readme(
    mean: Run, head: Run, causal: Run, multi: Run, runs: Store, python: Python
) -> None:
    all_runs = [mean, head, causal, multi]
    names = [run.id for run in all_runs]
    output, _ = python("-c", IN_ANOTHER_PROCESS, runs.folder, json.dumps(TEXTS), *names).communicate()
    lines = output.splitlines()
    assert len(lines) == 12
    for run, (loaded, labels, plain) in zip(
        all_runs, zip(lines[::3], lines[1::3], lines[2::3], strict=True), strict=True
    ):
        here = run.predict(TEXTS)
        known = here[run.facts.task["classes"]].values
        assert json.loads(loaded) == known.tolist()
        assert abs(json.loads(plain) - known).max() < 1e-5
        assert labels == str(here.label.tolist())


def test_the_folder_is_plain_and_names_the_classes(mean: Run) -> None:
    names = {path.name for path in mean.adapter_dir.iterdir()}
    assert names == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
        "README.md",
        "confusion.png",
        "curves.png",
        "spec.yaml",
    }
    assert json.loads((mean.adapter_dir / "config.json").read_text())["id2label"]["0"] == "bird"
    kept = json.loads((mean.adapter_dir / "adapter_config.json").read_text())
    assert (kept["task_type"], kept["auto_mapping"]) == ("SEQ_CLS", None)
    readme = (mean.adapter_dir / "README.md").read_text()
    assert "pipeline_tag: text-classification\n" in readme
    assert re.search(r"^\| accuracy \|  \| [01][.\d]* \|$", readme, re.M)


def test_an_adapter_is_not_taken_for_a_base(mean: Run, classify: Classify) -> None:
    run = classify(model=str(mean.adapter_dir))
    with pytest.raises(Exception, match="holds an adapter; name the base model it was made for"):
        run.wait()


@pytest.mark.parametrize("fields", [{"fast": False}, {"token_budget": 32}, {"gradient_checkpointing": True}], ids=str)
def test_how_a_step_is_computed_does_not_change_the_curve(
    mean: Run, classify: Classify, fields: dict[str, Any]
) -> None:
    fields |= {"eval_data": None, "eval_fraction": 0}
    run = classify(stop_at(10), **fields).wait()
    found = losses(run)
    assert found == pytest.approx(losses(mean)[: len(found)], rel=1e-3)
    assert 10 <= len(found) < 20


def test_after_a_stop_the_curve_goes_on(mean: Run, classify: Classify, runs: Store) -> None:
    run = classify(stop_at(5))
    assert run.wait().status == "stopped"
    assert run.metrics["accuracy"] is not None
    found = load(run.id, store=runs)
    assert losses(found.resume()) == losses(mean)
    assert found.predict(TEXTS).equals(mean.predict(TEXTS))


def test_two_tasks_on_one_base_do_not_touch_each_other(
    classify: Classify, base: Path, rows: list[dict[str, str]], runs: Store
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    spec = RunSpec(data="(in memory)", model=str(base), max_steps=3, dtype="float32", device="cpu", learning_rate=0.01)
    writes = begin(spec, data=rows, store=runs).wait()
    labels = classify(model=str(base), max_steps=3).wait()
    places = {run.model.get_input_embeddings().weight.data_ptr() for run in (writes, labels)}
    assert len(places) == 1
    fresh = AutoModelForCausalLM.from_pretrained(base)
    known = {name: tensor for name, tensor in fresh.state_dict().items() if "lm_head" not in name}
    for run in (writes, labels):
        own = {
            name.removeprefix("base_model.model.").replace(".base_layer", ""): tensor
            for name, tensor in run.model.state_dict().items()
        }
        assert all(torch.equal(own[name], tensor) for name, tensor in known.items())
    again = begin(spec, data=rows, store=runs).wait()
    assert losses(again) == losses(writes)
    assert again.generate("Hello", max_new_tokens=6) == writes.generate("Hello", max_new_tokens=6)


def test_rows_are_held_out_in_every_class(classify: Classify) -> None:
    run = classify(eval_data=None, eval_fraction=0.2, max_steps=1).wait()
    true: dict[int, int] = {}
    for kind, _, count in run.metrics["confusion"]:
        true[kind] = true.get(kind, 0) + count
    assert sorted(true) == [0, 1, 2]
    assert 48 <= run.metrics["eval_examples"] <= 80


def test_what_a_run_cannot_do_is_said_in_a_line(mean: Run, spec: Any, rows: list[Any], store: Store) -> None:
    with pytest.raises(RunError, match=r"^run \S+ gives texts labels and writes none; call predict\(\) on it$"):
        mean.generate("Hello")
    with pytest.raises(RunError, match=r"^predict\(\) takes texts, and found a int among them; turn it into text"):
        mean.predict(["a", 0])
    writes = begin(spec(max_steps=1), data=rows, store=store).wait()
    with pytest.raises(RunError, match=r"^run \S+ writes texts and knows no classes; call generate\(\) on it$"):
        writes.predict("Hello")
    with pytest.raises(RunError, match=r"^run \S+ has no confusion matrix; one comes of task: classification"):
        writes.plot("confusion")
    assert mean.plot("confusion").png()


def test_unfit_data_are_refused_before_anything_is_made(classify: Classify, labelled: list[Any], runs: Store) -> None:
    before = len(runs.all())
    with pytest.raises(DataError, match="set task: classification$"):
        classify(task="generation")
    with pytest.raises(DataError, match="only the label 'owl'"):
        classify(data=[{"text": "a", "label": "owl"}] * 9)
    with pytest.raises(DataError, match="evaluation row 0: has the label 'wol', which no training row has"):
        classify(data=[*labelled[:60], *({"text": "a", "label": "wol"} for _ in range(30))])
    with pytest.raises(DataError, match="^too_long: split"):
        classify(too_long="split")
    assert len(runs.all()) == before


def test_a_base_in_four_bits_learns_classes(classify: Classify, plain_encoder: Path, runs: Store) -> None:
    import bitsandbytes

    run = classify(method="qlora", model=str(plain_encoder)).wait()
    assert any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in run.model.modules())
    assert run.metrics["accuracy"] > 0.9
    assert load(run.id, store=runs).predict(TEXTS).equals(run.predict(TEXTS))


def test_texts_longer_than_the_model_has_places_for_are_cut(classify: Classify, labelled: list[Any]) -> None:
    long = [{**row, "text": row["text"] + " the red yard" * 10} for row in labelled]
    run = classify(data=long, max_steps=1).wait()
    assert run.facts.task["max_tokens"] == 16
    assert len(run.predict(["the red yard " * 30])) == 1


def test_a_live_pair_is_classified_with_and_never_changed(
    mean: Run, encoder: Path, labelled: list[Any], runs: Store
) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    pair = AutoModel.from_pretrained(encoder), AutoTokenizer.from_pretrained(encoder)
    before = {name: tensor.clone() for name, tensor in pair[0].state_dict().items()}
    cut = len(labelled) * 2 // 3
    names = {"learned": labelled[:cut], "asked": labelled[cut:]}
    run = begin(RunSpec(**mean.spec.to_kwargs() | {"model": "(in memory)"}), model=pair, namespace=names, store=runs)
    assert losses(run.wait()) == losses(mean)
    assert all(torch.equal(tensor, before[name]) for name, tensor in pair[0].state_dict().items())

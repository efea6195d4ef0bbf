"""What the worker does with data, base and memory: real quantization, real want of memory."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import peft_nb
from peft_nb.data.sources import IN_MEMORY
from peft_nb.errors import ModelError
from peft_nb.events import Event, Notice, StatusChanged
from peft_nb.runs import rows as rows_of_runs
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests.conftest import Python, stop_at

Start = Callable[..., Run]

MISTAKES = """
import json, sys
import peft_nb
from peft_nb.data.sources import IN_MEMORY
from peft_nb.errors import PeftNbError
rows = [{"question": "a", "answer": "b"}] * 4
for fields in (
    {"data": "no_such_data"},
    {"data": rows, "learning_rat": 1},
    {"data": rows, "method": "lorra"},
    {"data": rows, "method": "qlora", "quantization": "none"},
    {"data": [{"this": 1, "that": 2}]},
    {"data": rows, "model": "./no-such-folder"},
):
    try:
        peft_nb.train(**fields)
    except PeftNbError as error:
        print(f"{type(error).__name__}: {error}")
print("torch" in sys.modules)
"""


def losses(run: Run) -> list[float]:
    history = run.history
    return history.loss[history.loss.notna()].tolist()


def notices(run: Run) -> list[str]:
    return [event.text for event in run.events() if isinstance(event, Notice)]


@pytest.fixture(scope="module")
def plain(spec: Callable[..., RunSpec], rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An undisturbed run."""
    return begin(spec(), data=rows, store=Store(tmp_path_factory.mktemp("plain"))).wait()


def test_mistakes_are_told_in_a_line_before_pytorch_is_imported(tmp_path: Path, python: Python) -> None:
    output, _ = python("-c", MISTAKES, cwd=tmp_path).communicate()
    *told, last = output.splitlines()
    kinds = [line.partition(":")[0] for line in told if "Error: " in line]
    assert kinds == ["DataError", "SpecError", "SpecError", "SpecError", "DataError", "ModelError"]
    assert "did you mean 'learning_rate'?" in told[1]
    assert "did you mean 'lora'?" in told[2]
    assert last == "False"


@pytest.mark.parametrize(
    "fields",
    [{"fast": False}, {"token_budget": 32}, {"token_budget": 32, "fast": False}, {"gradient_checkpointing": True}],
    ids=str,
)
def test_how_a_step_is_computed_does_not_change_the_curve(plain: Run, start: Start, fields: dict[str, Any]) -> None:
    run = start(**fields).wait()
    assert losses(run) == pytest.approx(losses(plain), rel=1e-4)
    assert run.metrics["eval_loss"] == pytest.approx(plain.metrics["eval_loss"], rel=1e-4)


def test_the_notebooks_random_state_is_left_alone(start: Start) -> None:
    import numpy
    import torch

    states = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    start(dropout=0.1, max_steps=2).wait()
    assert states == (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_dropout_is_the_same_every_time_and_after_resuming(start: Start) -> None:
    undisturbed = start(dropout=0.2).wait()
    random.seed(7)
    run = start(stop_at(3), dropout=0.2)
    assert run.wait().status == "stopped"
    assert losses(run.resume()) == losses(undisturbed)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantized_base_learns_stays_as_it_was_and_is_found_again(
    start: Start, store: Store, quantization: str
) -> None:
    import bitsandbytes

    run = start(method="qlora", quantization=quantization, max_steps=12).wait()
    kind = {"4bit": bitsandbytes.nn.Linear4bit, "8bit": bitsandbytes.nn.Linear8bitLt}[quantization]
    assert sum(isinstance(module, kind) for module in run.model.modules()) == 14
    assert losses(run)[-1] < 0.8 * losses(run)[0]
    answer, bare = (run.generate("Hello", max_new_tokens=8, adapter=on) for on in (True, False))
    found = load(run.id, store=store)
    assert found.generate("Hello", max_new_tokens=8) == answer != bare
    again = start(method="qlora", quantization=quantization, max_steps=12).wait()
    assert losses(again) == losses(run)


def test_held_out_rows_come_from_where_the_spec_says(plain: Run, start: Start, rows_file: Path) -> None:
    none = start(eval_fraction=0).wait()
    assert (none.metrics["examples"], none.metrics["eval_examples"]) == (23, 0)
    assert none.metrics["eval_loss"] is None
    assert none.history.eval_loss.isna().all()
    assert none.history.eval_loss.dtype == float
    given = start(eval_data=str(rows_file)).wait()
    assert (given.metrics["examples"], given.metrics["eval_examples"]) == (23, 23)
    assert (plain.metrics["examples"], plain.metrics["eval_examples"]) == (21, 2)


def test_held_out_rows_may_be_given_without_a_name(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], store: Store, rows_file: Path
) -> None:
    named = begin(spec(eval_data=str(rows_file), max_steps=2), data=rows, store=store).wait()
    run = begin(spec(eval_data=IN_MEMORY, max_steps=2), data=rows, eval_data=rows, store=store).wait()
    assert run.metrics["eval_loss"] == named.metrics["eval_loss"]
    assert "23 rows also in the evaluation, or nearly; peft_nb.check shows more" in notices(run)


def test_plain_text_is_continued_as_it_stands(spec: Callable[..., RunSpec], rows: list[Any], store: Store) -> None:
    texts = [{"text": row["answer"]} for row in rows]
    run = begin(spec(max_steps=20), data=texts, store=store).wait()
    ids = run.tokenizer("Ahoy!", return_tensors="pt")
    made = run.model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    continued = run.tokenizer.decode(made, skip_special_tokens=True).strip()
    for one in (run, load(run.id, store=store)):
        assert one.generate("Ahoy!", max_new_tokens=8) == continued


def test_a_run_stopped_before_its_first_step_starts_over(plain: Run, start: Start) -> None:
    run = start()
    run.stop()
    assert (run.wait().status, run.reason) == ("stopped", "before the first step")
    assert losses(run.resume()) == losses(plain)


def test_a_live_pair_is_trained_beside_and_never_changed(
    plain: Run, spec: Callable[..., RunSpec], base: Path, rows: list[Any], store: Store
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pair = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    names = [name for name, _ in pair[0].named_parameters()]
    before = {name: tensor.clone() for name, tensor in pair[0].state_dict().items()}
    run = begin(spec(model="(in memory)"), data=rows, model=pair, store=store).wait()
    assert losses(run) == losses(plain)
    assert [name for name, parameter in pair[0].named_parameters() if parameter.requires_grad] == names
    assert all(torch.equal(tensor, before[name]) for name, tensor in pair[0].state_dict().items())
    assert json.loads((run.adapter_dir / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)

    with pytest.raises(ModelError, match=r"pass it again: peft_nb.load\(id, model=\(model, tokenizer\)\)$"):
        _ = load(run.id, store=store).model
    found = load(run.id, model=pair, store=store)
    assert found.generate("Hello", max_new_tokens=8) == run.generate("Hello", max_new_tokens=8)


def test_a_run_goes_on_in_the_data_type_it_began_with(start: Start, store: Store) -> None:
    run = start(dtype="auto", max_steps=2).wait()
    other = "bfloat16" if run.facts.dtype == "float32" else "float32"
    store.set_facts(run.id, replace(run.facts, dtype=other))
    assert str(load(run.id, store=store).model.dtype) == f"torch.{other}"


def test_what_was_done_with_the_data_is_told(plain: Run) -> None:
    (told,) = notices(plain)
    assert re.fullmatch(
        r"list, 23 rows: .*; the model's own chat template; 23 rows, [\d,]+ tokens, [\d,]+ of them trained on", told
    )


def test_what_the_check_finds_is_told_before_the_first_step_and_kept_with_the_run(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], store: Store
) -> None:
    heard: list[Event] = []
    run = begin(spec(max_steps=1), data=[*rows, rows[3]], store=store, listeners=[heard.append]).wait()
    told = Notice("1 row repeating an earlier one; peft_nb.check shows more")
    assert heard.index(told) < heard.index(StatusChanged("training"))
    kept = json.loads((run.folder / "data.json").read_text())
    assert kept["rows"] == 24
    assert [(found["kind"], found["rows"]) for found in kept["findings"] if found["level"] != "note"] == [
        ("duplicate", [23])
    ]
    assert kept["lengths"]["shortest"] > 0
    assert not kept["lengths"]["estimated"]
    assert kept["changes"] == []
    assert rows[3]["answer"] not in (run.folder / "data.json").read_text()


def test_the_list_of_what_was_mended_is_kept_with_a_run_on_the_mended_data(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], store: Store
) -> None:
    report = peft_nb.check([*rows, rows[3]], model="no/such")
    clean = report.fixed()
    run = begin(spec(max_steps=1), data=clean, store=store).wait()
    kept = json.loads((run.folder / "data.json").read_text())
    assert kept["changes"] == [{"row": 23, "what": "dropped: repeats row 3"}]
    changed = begin(spec(max_steps=1), data=clean[1:], store=store).wait()
    assert json.loads((changed.folder / "data.json").read_text())["changes"] == []


def test_redacted_rows_are_listed_with_the_run(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], store: Store
) -> None:
    pytest.importorskip("presidio_analyzer")
    private = [{**rows[0], "answer": "Write to anna.berg@example.org."}, *rows[1:]]
    run = begin(spec(max_steps=1, personal_data="redact"), data=private, store=store).wait()
    text = (run.folder / "data.json").read_text()
    assert json.loads(text)["changes"] == [{"row": 0, "what": "redacted EMAIL"}]
    assert "anna" not in text
    assert "personal data: redacted EMAIL (1)" in notices(run)


def test_of_many_rows_the_first_are_looked_through(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_of_runs, "CHECKED_ROWS", 10)
    run = begin(spec(max_steps=1), data=[*rows, rows[3]], store=store).wait()
    kept = json.loads((run.folder / "data.json").read_text())
    assert (kept["rows"], kept["notes"]) == (10, ["the first 10 of 24 rows were looked at"])
    assert len(notices(run)) == 1

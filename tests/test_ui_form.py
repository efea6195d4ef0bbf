from __future__ import annotations

import pytest

from peft_nb.errors import SpecError
from peft_nb.methods import REGISTRY
from peft_nb.runs import reporters
from peft_nb.spec import METHODS, RunSpec, notation
from peft_nb.ui import form

HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(1)> مرحبا 👩‍🔧 " + "w" * 300


def typed(**raw: str | bool) -> form.Form:
    return form.read({**form.blank(), "data": "tickets", **raw})


def test_an_untouched_form_describes_the_default_run() -> None:
    assert typed().spec == RunSpec(data="tickets")
    assert typed().cell == RunSpec(data="tickets").to_magic("run")
    assert list(typed().entries) == [*(info.name for info in RunSpec.describe()), "out"]


@pytest.mark.parametrize(
    ("raw", "wrong", "said"),
    [
        ({"r": "many"}, "r", "'many' is not a finite number; write digits"),
        ({"r": "0"}, "r", "below the smallest allowed value 1"),
        ({"data": ""}, "data", "missing; give training rows"),
        ({"max_steps": "3", "warmup_steps": "5"}, "warmup_steps", "more than max_steps, 3"),
        ({"columns": "prompt"}, "columns", "no mapping"),
        ({"method": "full", "quantization": "4bit", "task": "generation"}, None, ""),
        ({"method": "pissa", "task": "generation"}, None, ""),
        ({"method": "qlora", "quantization": "none"}, "quantization", "qlora takes 4bit or 8bit, not none"),
        (
            {"method": "prompt", "task": "classification"},
            "method",
            "prompt serves generation, dpo, ",
        ),
        ({"out": "my run"}, "out", "not a name for a variable"),
    ],
)
def test_a_mistake_is_told_beside_its_field(raw: dict[str, str], wrong: str | None, said: str) -> None:
    found = typed(**raw)
    assert list(found.problems) == ([wrong] if wrong else [])
    assert bool(found.cell) == (wrong is None)
    if wrong:
        entry = found.entries[wrong]
        assert said in entry.problem
        assert form.label(entry) == f"{form.LABELS.get(wrong, wrong.replace('_', ' '))}: error"
        assert form.wrong(found) == f"1 error: {form.LABELS.get(wrong, wrong)}"
        assert 'role="alert"' in form.note(entry)
        with pytest.raises(SpecError, match=wrong):
            found.valid_spec()


def test_a_package_that_is_missing_is_told_beside_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporters, "find_spec", lambda name: None)
    found = typed(report_to="mlflow")
    assert found.problems == {"report_to": "mlflow needs the package mlflow; %pip install mlflow"}
    assert not found.cell


@pytest.mark.parametrize("method", METHODS)
def test_fields_that_a_method_has_no_use_for_are_hidden_and_count_for_nothing(method: str) -> None:
    everything = {"r": "4", "alpha": "8", "dropout": "0.1", "num_virtual_tokens": "5", "target_modules": "all-linear"}
    options = ", ".join(f"{name}: 1" for name in REGISTRY[method].required)
    found = typed(method=method, method_options=options, **everything)
    assert not found.problems
    hidden = {name for name in everything if not found.entries[name].used}
    assert hidden == everything.keys() - REGISTRY[method].fields.keys()
    assert found.spec is not None
    assert not hidden & found.spec.changed().keys()
    assert REGISTRY[method].when in found.entries["method"].help


def test_all_that_a_spec_can_say_goes_through_the_form_and_back() -> None:
    spec = RunSpec(
        data="tickets", system="", columns={"prompt": "ask, then: wait"}, target_modules=["q_proj", "v_proj"], r=8,
        method_options={"use_dora": True}, accept={"forgetting": "< 0.05"}, learning_rate=1e-5, epochs=2.5, fast=False,
        load_best_model_at_end=True, revision="null", name="a-1",
    )  # fmt: skip
    assert form.read({**form.blank(), **form.filled(spec.changed())}).spec == spec
    lines = typed(system="Be kind.\nAnswer: shortly.", columns="prompt: ask, completion: answer", out="run")
    assert lines.spec is not None
    assert lines.spec.columns == {"prompt": "ask", "completion": "answer"}
    assert notation.read_cell(lines.cell, RunSpec.describe()).out == "run"
    assert RunSpec.from_magic(lines.cell) == lines.spec


def test_nothing_is_empty_and_what_a_method_takes_is_told() -> None:
    entries = typed(method="ia3").entries
    assert entries["learning_rate"].usual == "0.003 (default)"
    assert not [name for name, entry in entries.items() if "empty" in entry.help]
    assert form.blank()["out"] == "run"


def test_settings_are_found_by_their_names_and_their_help() -> None:
    entries = typed().entries
    assert {"max_steps", "eval_steps", "save_steps", "logging_steps"} <= form.found("steps", entries)
    assert form.found("save result", entries) == {"out"}
    assert form.found("per_device_train_batch_size", entries) == {"batch_size"}
    assert form.found("no such words", entries) == set()
    assert form.found("", entries) == entries.keys()


def test_a_name_is_chosen_that_is_free() -> None:
    assert [form.free("run", names) for names in ({}, {"run": 1}, {"run": 1, "run2": 2})] == ["run", "run2", "run3"]


def test_what_is_left_of_a_form_is_its_cell() -> None:
    found = form.page(typed(system="<b>"), "Trains on 23 rows")
    assert "<p>Trains on 23 rows</p>" in found
    assert "%%peft lora --data tickets --out run" in found
    assert "<b>" not in found
    assert form.page(typed(r="many"), "old").startswith("<p>1 error: r</p>")


def test_what_is_foreign_changes_nothing_but_text() -> None:
    found = typed(name=HOSTILE, system=HOSTILE)
    assert "<script" not in form.note(found.entries["name"])
    assert "<img" not in form.note(found.entries["name"])

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb import tasks
from peft_nb.errors import DataError
from peft_nb.magics.line import COMMANDS
from peft_nb.methods import problems, tasks_of
from peft_nb.planning.advise import advise
from peft_nb.planning.rules import DETOURS, RULES, Situation
from peft_nb.spec import METHODS, RunSpec
from peft_nb.tasks import for_kind
from tests.shell import refused

# What is known, the first of the ranked methods, and a word of each detour.
SITUATIONS: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"goal": "style", "rows": 1000}, "lora", []),
    ({"goal": "style", "rows": 50}, "lora", []),
    ({"goal": "format", "rows": 1000, "minutes": 5}, "lora", []),
    ({"goal": "domain", "rows": 5000, "must_merge": True}, "lora", []),
    ({"goal": "reasoning", "rows": 50_000}, "rslora", []),
    ({"goal": "language", "rows": 50_000}, "rslora", []),
    ({"goal": "classification", "rows": 500}, "lora", []),
    ({"task": "classification", "rows": 500, "many_adapters": True}, "lora", []),
    ({"rows": 1000, "many_adapters": True}, "lora", []),
    ({"rows": 100, "many_adapters": True}, "ia3", []),
    ({"rows": 1000, "memory_gb": 8, "parameters": 7e9}, "qlora", []),
    ({"rows": 1000, "memory_gb": 8, "parameters": 7e9, "must_merge": True}, "qlora", []),
    ({"rows": 1000, "memory_gb": 64, "parameters": 7e9}, "lora", []),
    ({"rows": 1000, "memory_gb": 2, "parameters": 7e9}, "qlora", ["smaller base"]),
    ({"goal": "knowledge", "rows": 5000}, "rslora", ["retrieval"]),
    ({"goal": "unclear", "rows": 5000}, "lora", ["20 examples"]),
    ({}, "lora", ["20 examples"]),
    ({"goal": "format", "rows": 12}, "lora", ["few-shot"]),
    ({"goal": "classification", "rows": 100, "classes": 20}, "ia3", ["label more"]),
    ({"goal": "common", "rows": 1000}, "lora", ["evaluate the base model"]),
    ({"goal": "language", "rows": 300}, "rslora", ["speaks it"]),
    ({"goal": "preferences", "rows": 500}, "lora", []),
    ({"task": "kto"}, "lora", []),
    ({"goal": "checkable", "rows": 500}, "lora", []),
]


@pytest.mark.parametrize(("known", "first", "instead"), SITUATIONS, ids=lambda value: str(value) or None)
def test_what_is_advised(known: dict[str, Any], first: str, instead: list[str]) -> None:
    advice = advise(**known)
    assert advice.choices[0].method.name == first
    assert len(advice.detours) == len(instead)
    assert all(words in detour.instead for words, detour in zip(instead, advice.detours, strict=True))


@pytest.mark.parametrize("known", [known for known, _, _ in SITUATIONS], ids=str)
def test_three_methods_each_with_a_cell_that_runs_as_it_is(known: dict[str, Any]) -> None:
    advice = advise(**known)
    assert len({choice.method.name for choice in advice.choices}) == 3
    for choice in advice.choices:
        assert RunSpec.from_magic(choice.cell) == choice.spec
        assert problems(choice.spec) == tasks.problems(choice.spec) == []
        assert choice.spec.task in tasks_of(choice.method)
        assert choice.method.mergeable or not known.get("must_merge")
        assert any(choice.method.when in reason for reason in choice.reasons)
    points = [choice.points for choice in advice.choices]
    assert points == sorted(points, reverse=True)


def test_every_rule_and_every_detour_is_met_by_a_situation() -> None:
    situations = [advise(**known).situation for known, _, _ in SITUATIONS]
    situations += [advise(rows=10, tokens=3000).situation]
    situations += [advise(task=task).situation for task in ("image-classification", "speech-recognition")]
    assert not [rule.reason for rule in RULES if not any(map(rule.when, situations))]
    assert not [detour.problem for detour in DETOURS if not any(map(detour.when, situations))]


def test_the_same_is_advised_again() -> None:
    assert repr(advise(goal="style", rows=99)) == repr(advise(goal="style", rows=99))


def test_the_settings_follow_from_the_situation() -> None:
    best = advise(rows=1000, memory_gb=8, parameters=7e9, tokens=3000).choices[0].spec
    assert (best.method, best.gradient_checkpointing, best.max_length) == ("qlora", True, 3072)
    (lora,) = [choice.spec for choice in advise(rows=100).choices if choice.method.name == "lora"]
    assert (lora.r, lora.alpha) == (8, 16.0)
    assert advise(rows=30_000).choices[0].spec.epochs == 1.0
    assert advise(goal="classification", rows=900).choices[0].spec.model == "minilm-l6"


def test_no_advice_costs_the_user_an_unlisted_method() -> None:
    names = {choice.method.name for known, _, _ in SITUATIONS for choice in advise(**known).choices}
    assert names <= set(METHODS)
    assert len(names) > 4


def test_data_are_counted_and_measured(labelled: list[dict[str, str]]) -> None:
    told = advise("support-desk").situation
    assert (told.data, told.rows, told.task) == ("support-desk", 360, "generation")
    assert told.tokens
    assert 10 < told.tokens < 200
    seen = advise(labelled).situation
    assert (seen.rows, seen.classes, seen.task, seen.data) == (480, 3, "classification", None)
    assert advise("mine", namespace={"mine": labelled}).choices[0].spec.data == "mine"
    assert advise(labelled, rows=7).situation.rows == 7
    with pytest.raises(DataError, match="did you mean"):
        advise("mien", namespace={"mine": labelled})


def test_judged_answers_are_learned_by_the_task_that_is_for_them() -> None:
    pairs, rated = advise("brief-answers"), advise("brief-answers-rated")
    assert (pairs.situation.task, rated.situation.task) == ("dpo", "kto")
    assert advise(goal="preferences", rows=500).situation.task == "dpo"
    assert advise("brief-answers-rated", goal="preferences").situation.task == "kto"
    checkable = advise(goal="checkable", rows=500)
    assert checkable.situation.task == for_kind("prompt").name
    assert checkable.notes[-1].startswith("%peft estimate your_rows --method lora --task grpo --reward your_reward ")
    for advice, said in ((pairs, "which of two is preferred (dpo)"), (rated, "need no pairs (kto)")):
        for choice in advice.choices:
            assert choice.spec.learning_rate is None  # the task's own
            assert f"\ntask: {advice.situation.task}\n" in choice.cell
            assert any(said in reason for reason in choice.reasons)


def test_the_size_of_a_model_is_read_from_its_files(base: Path) -> None:
    from safetensors import safe_open

    with safe_open(base / "model.safetensors", "np") as file:
        held = sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118
    assert advise(rows=500, model=str(base), memory_gb=1).situation.parameters == held
    unknown = advise(rows=500, model="nobody/nothing", memory_gb=1)
    assert unknown.situation.parameters is None
    assert "--parameters" in unknown.notes[0]


def test_what_is_shown_is_escaped() -> None:
    nasty = "<script>alert('x')</script>"
    advice = advise(rows=500, model=nasty)
    assert nasty not in advice._repr_html_()
    assert "&lt;script&gt;" in advice._repr_html_()
    assert nasty in repr(advice)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--goal stile", "did you mean 'style'?"),
        ("--rows many", "rows: 'many' is not a finite number"),
        ("--rows=-1", "rows: -1 is below the smallest allowed value 0"),
        ("--memory-gb 0", "memory_gb: 0 is too low; it must be above 0"),
        ("--rows", "--rows: needs a value"),
        ("--must-merge=yes", "takes no value"),
        ("--memory 3", "no such flag: '--memory'; did you mean '--memory-gb'?"),
        ("a b", "b: unexpected; write %peft advise"),
    ],
)
def test_a_bad_flag_is_one_line(shell: InteractiveShell, line: str, said: str) -> None:
    told = refused(shell, f"%peft advise {line}")
    assert said in told
    assert "\n" not in told


def test_the_magic_is_the_function(shell: InteractiveShell) -> None:
    line = "%peft advise support-desk --goal style --memory-gb 8 --minutes 10 --must-merge --many-adapters"
    told = shell.run_cell(line).result
    same = advise("support-desk", goal="style", memory_gb=8, minutes=10, must_merge=True, many_adapters=True)
    assert repr(told) == repr(same)


def test_every_question_is_a_flag_of_the_command(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_cell("%peft help advise")
    shown = capsys.readouterr().out
    for name in Situation.model_fields.keys() - {"data"}:
        flag = "--" + name.replace("_", "-")
        assert flag in COMMANDS["advise"].flags
        assert flag in COMMANDS["advise"].usage
        assert flag in shown

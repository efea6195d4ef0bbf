from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from peft_nb.methods import REGISTRY
from peft_nb.planning.rules import DETOURS, RULES, Detour, Rule, Situation, always, every, named
from peft_nb.spec import METHODS, RunSpec


def rule(words: str) -> Rule:
    """The one rule whose reason has these words."""
    (found,) = [one for one in RULES if words in one.reason]
    return found


def detour(words: str) -> Detour:
    """The one detour whose problem has these words."""
    (found,) = [one for one in DETOURS if words in one.problem]
    return found


def test_every_rule_has_its_reason_and_evidence() -> None:
    assert all(entry.evidence for entry in (*RULES, *DETOURS))
    assert len({rule.reason for rule in RULES}) == len(RULES)


@pytest.mark.parametrize(
    ("known", "true"),
    [
        ({}, []),
        ({"rows": 0}, ["few"]),
        ({"rows": 199}, ["few"]),
        ({"rows": 200}, []),
        ({"rows": 19_999}, []),
        ({"rows": 20_000}, ["capacity", "many"]),
        ({"goal": "reasoning"}, ["capacity"]),
        ({"minutes": 14.9}, ["hurried"]),
        ({"minutes": 15}, []),
        ({"task": "classification"}, ["labelled"]),
        ({"task": "dpo"}, ["judged"]),
        ({"task": "kto"}, ["judged"]),
        ({"memory_gb": 1}, []),
        ({"memory_gb": 31, "parameters": 7e9}, []),  # 28 GB of weights, and 3
        ({"memory_gb": 30.9, "parameters": 7e9}, ["tight"]),
        ({"memory_gb": 6.75, "parameters": 7e9}, ["tight"]),  # 5.25 GB of weights, and 1.5
        ({"memory_gb": 6.7, "parameters": 7e9}, ["tight", "too_tight"]),
        ({"memory_gb": 1.9, "parameters": 1e8, "task": "classification"}, ["labelled"]),
        ({"memory_gb": 1.8, "parameters": 1e8, "task": "classification"}, ["labelled", "tight"]),
    ],
    ids=str,
)
def test_what_follows_from_a_situation(known: dict[str, Any], true: list[str]) -> None:
    situation = Situation(**known)
    names = ("few", "many", "capacity", "hurried", "judged", "labelled", "tight", "too_tight")
    assert sorted(name for name in names if getattr(situation, name)) == true


@pytest.mark.parametrize("known", [{"rows": -1}, {"memory_gb": 0}, {"goal": "fame"}, {"colour": "red"}], ids=str)
def test_what_cannot_be_is_refused(known: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(known))):
        Situation(**known)


def test_every_rule_is_about_some_method_and_no_rule_of_points_about_all() -> None:
    methods = [REGISTRY[name] for name in METHODS]
    for one in RULES:
        meant = [method for method in methods if one.methods(method)]
        assert meant, one.reason
        assert one.points == 0 or len(meant) < len(methods), one.reason
    assert all(every(method) for method in methods)
    assert [method.name for method in methods if named("lora", "nothing")(method)] == ["lora"]
    assert always(Situation())


@pytest.mark.parametrize(
    ("words", "known", "method", "sets"),
    [
        ("quantized to 4 bits", {}, "qlora", {"quantization": "4bit", "gradient_checkpointing": True}),
        ("a low rank is enough", {}, "lora", {"r": 8, "alpha": 16.0}),
        ("high ranks", {}, "rslora", {"r": 64, "alpha": 16.0}),
        ("rows are long", {"tokens": 1025}, "lora", {"max_length": 1280}),
        ("rows are long", {"tokens": 10**9}, "lora", {"max_length": 1_000_000}),
        ("an encoder", {"task": "classification"}, "lora", {"model": "minilm-l6"}),
        ("680,000 hours", {"task": "speech-recognition"}, "lora", {"model": "whisper-tiny-en"}),
        ("images without labels", {"task": "image-classification"}, "lora", {"model": "dinov2-small"}),
    ],
)
def test_settings_are_those_a_spec_takes(words: str, known: dict[str, Any], method: str, sets: dict[str, Any]) -> None:
    found = rule(words).sets(Situation(**known), REGISTRY[method])
    assert found == sets
    spec = RunSpec(data="rows", method=method, **found)
    assert {name: getattr(spec, name) for name in sets} == sets


@pytest.mark.parametrize(
    ("words", "met", "missed"),
    [
        ("too few rows for training", {"rows": 19}, {"rows": 20}),
        ("fewer than eight", {"rows": 39, "task": "classification", "classes": 5},
         {"rows": 40, "task": "classification", "classes": 5}),
        ("not learned from so few", {"goal": "language", "rows": 9999}, {"goal": "language", "rows": 10_000}),
        ("what a good answer is", {}, {"rows": 5}),
    ],
)  # fmt: skip
def test_detours_begin_where_they_say(words: str, met: dict[str, Any], missed: dict[str, Any]) -> None:
    assert detour(words).when(Situation(**met))
    assert not detour(words).when(Situation(**missed))

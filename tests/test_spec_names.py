"""Names of tasks, methods and layouts: what is registered is offered and taken, everything else refused."""

from __future__ import annotations

import pytest

from peft_nb.errors import SpecError
from peft_nb.spec import METHODS, RunSpec, register_name
from peft_nb.spec.field_info import FieldInfo
from peft_nb.spec.names import NAMES, UNLISTED
from peft_nb.spec.notation.help import help_text


@pytest.fixture
def field(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a field of which no name is known."""
    monkeypatch.setitem(NAMES, request.param, {})
    monkeypatch.setitem(UNLISTED, request.param, set())
    return request.param


def described(name: str) -> FieldInfo:
    (found,) = (field for field in RunSpec.describe() if field.name == name)
    return found


def refused(field: str, name: str) -> str:
    with pytest.raises(SpecError) as caught:
        RunSpec(**{"data": "x", field: name})
    return str(caught.value)


@pytest.mark.parametrize("field", NAMES, indirect=True)
def test_while_no_name_is_known_any_plain_one_is_taken(field: str) -> None:
    assert getattr(RunSpec(**{"data": "x", field: "lorra"}), field) == "lorra"
    assert described(field).choices == ()
    said = f"{field}: 'a b' is not the name of a {field}; use letters, digits, '-' and '_'"
    assert refused(field, "a b") == said


@pytest.mark.parametrize("field", NAMES, indirect=True)
def test_once_names_are_known_others_are_refused(field: str) -> None:
    register_name(field, "second", "Comes first.")
    register_name(field, "prefix", "Comes second.")
    register_name(field, "hidden", listed=False)
    assert described(field).choices == ("second", "prefix")
    assert refused(field, "secnd") == f"{field}: no {field} is called 'secnd'; did you mean 'second'?"
    assert refused(field, "hiddn") == f"{field}: no {field} is called 'hiddn'; did you mean 'hidden'?"
    assert refused(field, "zz") == f"{field}: no {field} is called 'zz'; known are second, prefix"
    for name in ("prefix", "hidden"):
        assert getattr(RunSpec(**{"data": "x", field: name}), field) == name


@pytest.mark.parametrize("field", ["method"], indirect=True)
def test_help_explains_names_that_say_what_they_are(field: str) -> None:
    register_name(field, "lora", "Low-rank update.")
    assert "\n      lora: Low-rank update.\n" in help_text(RunSpec.describe(), field)


def test_tasks_methods_and_layouts_are_known() -> None:
    preferences = ("dpo", "simpo", "orpo", "kto", "grpo")
    others = ("image-classification", "speech-recognition", "text-to-image")
    assert described("task").choices == ("generation", "classification", *preferences, *others)
    assert described("format").choices[:3] == ("auto", "prompt_completion", "instruction")
    assert described("method").choices == tuple(METHODS)
    assert "lora" in METHODS

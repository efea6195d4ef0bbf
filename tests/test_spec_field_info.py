from __future__ import annotations

from peft_nb.spec.field_info import FieldInfo, aliases, show, suggest


def test_other_names_stand_for_their_field() -> None:
    days = FieldInfo("days", "integer", "", "trip", aliases=("length",))
    assert aliases([days, FieldInfo("by", "text", "", "trip")]) == {"length": "days"}
    assert FieldInfo("learning_rate", "number", "", "trip").flag == "--learning-rate"


def test_names_that_others_use_are_suggested() -> None:
    assert suggest("lr", ["learning_rate", "r"]) == "; did you mean 'learning_rate'?"
    assert suggest("lora_rank", ["learning_rate", "r"]) == "; did you mean 'r'?"
    assert suggest("qqq", ["learning_rate", "r"]) == ""


def test_a_value_is_written_short_and_in_one_line() -> None:
    assert show("a\nb") == "'a\\nb'"
    assert len(show("w" * 500)) <= 80
